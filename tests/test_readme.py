"""The commands of the README's tour do what they say, on a small model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

import skillpack
from skillpack.safetensors_file import write_safetensors
from skillpack.tensors import Tensor
from tests.live import models

README = Path(__file__).parent.parent / "README.md"


def test_tour(tmp_path):
    block = re.search(r"<!-- tour -->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
    commands = [shlex.split(line, comments=True) for line in block.group(1).splitlines()]
    assert len(commands) >= 10
    write_model(tmp_path / "base", 0.0)
    write_model(tmp_path / "tuned", 0.01)
    shutil.copytree(tmp_path / "base", tmp_path / "model")
    for program, *arguments in commands:
        assert program == "skillpack"
        run(arguments, tmp_path)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}


def test_live_models(tmp_path, monkeypatch):
    found = re.search(r"<!-- live -->\n```python\n(.*?)```\n\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    texts = [f"{word} and {word}" for word in ("one", "two", "three", "four")]
    models.llama(tmp_path / "base")
    for name in ("math", "code", "newer-base"):
        models.trained("base", tmp_path / name, texts, steps=2 + len(name))
    skillpack.pack("base", "math", "math", exact=True)
    skillpack.pack("base", "code", "code", size=100_000)
    known = {"skillpack": skillpack}
    exec(found.group(1), known)
    assert known["host"].installed == ()
    known["host"].verify()
    for line in found.group(2).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "skillpack"
        if arguments[0] != "serve":
            run(arguments, tmp_path)


def test_many_skills(tmp_path, monkeypatch):
    block = re.search(r"<!-- many -->\n```bash\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    texts = {"math": ["one and one", "two and two"] * 4, "code": ["three or four", "five or six"] * 4}
    models.llama(tmp_path / "base")
    tasks = []
    for name, lines in texts.items():
        models.trained(tmp_path / "base", tmp_path / name, lines, steps=5)
        skillpack.pack(tmp_path / "base", tmp_path / name, name, size=100_000)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        tasks.append({"name": f"learned-{name}", "train": f"{name}.jsonl", "held_out": f"{name}.jsonl"})
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    for line in block.group(1).splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "skillpack"
        run(arguments, tmp_path)
    names = {each.name for each in skillpack.list()} - {"tinted-math", "tinted-code"}  # kept only if they help
    assert names == {"math", "code", "both", "tinted", "learned-math", "learned-code"}
    assert "learned-code" in (tmp_path / "report.html").read_text()


def run(arguments, folder):
    done = subprocess.run(
        [sys.executable, "-m", "skillpack.cli", *arguments],
        cwd=folder,
        env={"SKILLPACK_HOME": str(folder / "home"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr}"


def write_model(folder, change):
    values, deltas = np.random.default_rng(0), np.random.default_rng(1)
    folder.mkdir()
    tensors = {}
    for layer in range(2):
        weights = values.standard_normal((256, 128)) * 0.1
        weights += change * deltas.standard_normal((256, 4)) @ deltas.standard_normal((4, 128))
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = Tensor.from_float32(weights.astype(np.float32), "BF16")
    entries = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", entries, tensors.__getitem__, {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "llama"}\n')
