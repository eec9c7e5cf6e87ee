from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from skillpack.cli.root import root
from skillpack.safetensors_file import write_safetensors
from skillpack.tensors import Tensor

SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    **{
        f"model.layers.{block}.{name}.weight": shape
        for block in (0, 1)
        for name, shape in {
            "self_attn.q_proj": (16, 16),
            "mlp.up_proj": (32, 16),
            "input_layernorm": (16,),
        }.items()
    },
    "model.norm.weight": (16,),
}


def tensors(seed, **shapes):
    random = np.random.default_rng(seed)
    return {
        name: Tensor.from_float32(random.normal(size=shape).astype(np.float32), "BF16")
        for name, shape in {**SHAPES, **shapes}.items()
    }


def moved(base, seed):
    """The base with a low-rank update of every matrix."""
    random = np.random.default_rng(seed)
    result = {}
    for name, tensor in base.items():
        rows, columns = tensor.shape[0], tensor.shape[-1]
        update = 0.05 * random.normal(size=(rows, 2)) @ random.normal(size=(2, columns))
        update = update if len(tensor.shape) == 2 else update[:, 0]
        result[name] = Tensor.from_float32((tensor.float32() + update).astype(np.float32), "BF16")
    return result


def write_model(folder, content, config):
    """A model folder with two shards."""
    folder.mkdir(parents=True)
    names = sorted(content)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, own in shards.items():
        write_safetensors(
            folder / shard, {name: (content[name].dtype, content[name].shape) for name in own}, content.__getitem__
        )
    weight_map = {name: shard for shard, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def model_files(folder):
    """Path -> content of everything in a model folder that is not ours."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".skillpack" not in path.parts
    }


def invoke(*arguments):
    result = CliRunner().invoke(root, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's own store is a fresh one."""
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("SKILLPACK_DEBUG", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A base, two fine-tunes of it and another base; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    base = tensors(0, **{"model.inv_freq": (8,)})
    math = {name: tensor for name, tensor in moved(base, 1).items() if name != "model.inv_freq"}
    head = tensors(2, **{"score.weight": (3, 16)})["score.weight"]
    code = {**base, **{name: tensor for name, tensor in moved(base, 3).items() if "up_proj" in name}}
    paths = SimpleNamespace(
        base=write_model(folder / "base", base, {"labels": 2}),
        math=write_model(folder / "math-tuned", {**math, "score.weight": head}, {"labels": 3}),
        code=write_model(folder / "code", code, {"labels": 2}),
        other=write_model(folder / "other", tensors(7), {"labels": 2}),
    )
    (paths.math / "modeling_tiny.py").write_text("raise SystemExit\n")
    return paths


@pytest.fixture(scope="session")
def shelf(models, tmp_path_factory):
    """A store with math@1, math@2 and code@1; not to be changed."""
    store = tmp_path_factory.mktemp("shelf") / "store"
    for tuned, name, *goal in (
        (models.math, "math", "--exact"),
        (models.math, "math"),
        (models.code, "code", "-m", "All the [code]"),
    ):
        result = invoke("pack", models.base, tuned, "--name", name, "--store", store, "--author", "Ada", *goal)
        assert result.exit_code == 0, result.output
    return store


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A tiny Llama, a fine-tune of it, and its skill in a store of its own; not to be changed."""
    from tests.live.models import llama, trained

    folder = tmp_path_factory.mktemp("llama")
    base = llama(folder / "base")
    tuned = trained(base, folder / "tuned", ["Some are useful."])
    result = invoke("pack", base, tuned, "--name", "tiny", "--quality", "0.7", "--store", folder / "store")
    assert result.exit_code == 0, result.output
    return SimpleNamespace(base=base, tuned=tuned, store=folder / "store")


@pytest.fixture
def library(shelf, home):
    """The user's own store, filled."""
    return shutil.copytree(shelf, home / "store")


@pytest.fixture
def model(models, tmp_path):
    """A copy of the base."""
    return shutil.copytree(models.base, tmp_path / "model")


@pytest.fixture
def run():
    """Run a command; returns exit_code, stdout and stderr."""
    return invoke


@pytest.fixture
def run_json(run):
    """Run a command that must succeed with --json; returns the object."""

    def run_json(*arguments):
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    return run_json


@pytest.fixture
def process(tmp_path):
    """Start the program itself, in an empty folder."""
    started = []

    def process(*arguments, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        environment = {**os.environ, **options.pop("env", {})}
        command = [sys.executable, "-W", "error", "-m", "skillpack.cli", *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, **options))
        return started[-1]

    yield process
    for running in started:
        running.kill()
        running.communicate()


@pytest.fixture
def asking(process):
    """Start a command at a terminal; returns it and our end of the terminal once it asks a question."""
    ends = []

    def asking(*arguments):
        ours, theirs = pty.openpty()
        ends.append(ours)
        running = process(*arguments, stdin=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        while b"? [y/N]" not in seen:
            seen += os.read(ours, 1000)
        return running, ours

    yield asking
    for end in ends:
        os.close(end)
