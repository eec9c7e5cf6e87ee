import json
import os
import shutil

import pytest

from skillpack.installing.lock import locked
from skillpack.installing.model_folder import KEPT, ModelFolder
from tests.cli.conftest import model_files

SHARD = "model-00001-of-00002.safetensors"


def test_install_status_and_remove(library, model, run):
    before = model_files(model)
    installed = run("install", "math@1", model)
    assert (installed.exit_code, installed.stdout) == (0, "")
    first, second, third = installed.stderr.splitlines()
    assert first.startswith(f"installed math on {model}: ")
    assert second == "installed now: math@1"
    assert third == f"next: skillpack remove math {model}"
    assert model_files(model) != before

    found = run("status", model)
    assert found.exit_code == 0
    assert "math@1" in found.stdout
    assert "all files are as they were after the install (by size and time" in found.stdout

    removed = run("remove", "math", model)
    assert (removed.exit_code, removed.stdout) == (0, "")
    assert "no skill is left: every byte of the base is back" in removed.stderr
    assert model_files(model) == before


def test_several_skills_with_weights(library, models, tmp_path, run, run_json):
    out = tmp_path / "out"
    report = run_json("install", "math", "code=0.5", models.base, "-o", out)
    assert {(skill["label"], skill["weight"]) for skill in report["skills"]} == {("math@2", 1.0), ("code@1", 0.5)}
    assert report["folder"] == str(out)
    again = run("install", "math@1", out)
    assert again.stderr.startswith("installed math (another version)")
    assert "installed now: code@1=0.5, math@1" in again.stderr
    removed = run("remove", "code", out)
    assert "still installed: math@1" in removed.stderr
    assert run("remove", "--all", out).exit_code == 0
    assert model_files(out) == model_files(models.base)


def test_a_dry_run_changes_nothing(library, model, run):
    before = model_files(model)
    result = run("install", "math", model, "--dry-run")
    assert result.exit_code == 0
    assert result.stderr.startswith("would install math")
    assert result.stderr.endswith("dry run: nothing was changed\n")
    assert model_files(model) == before
    assert not (model / ".skillpack").exists()
    run("install", "math", model)
    with_math = model_files(model)
    result = run("remove", "math", model, "--dry-run")
    assert result.exit_code == 0
    assert "would be back" in result.stderr
    assert model_files(model) == with_math


def test_hard_links_share_the_weights_that_stay(library, models, tmp_path, run):
    base = shutil.copytree(models.base, tmp_path / "base")
    assert run("install", "code", base, "--hard-links").exit_code == 2
    assert run("install", "code", base, "-o", tmp_path / "out", "--hard-links", "-q").exit_code == 0
    shared = [path.name for path in base.glob("*.safetensors") if path.stat().st_nlink > 1]
    assert shared


def test_the_wrong_base(library, models, tmp_path, run):
    other = shutil.copytree(models.other, tmp_path / "other")
    before = model_files(other)
    result = run("install", "code", other)
    assert result.exit_code == 12
    assert "model.layers.0.mlp.up_proj.weight" in result.stderr
    assert model_files(other) == before
    assert run("install", "code", other, "--force").exit_code == 0
    assert json.loads(run("status", other, "--json").stdout)["skills"][0]["forced"] is True


def test_install_refuses(library, model, run):
    run("install", "math", model)
    assert run("install", "math", model).exit_code == 1
    assert run("install", "reading", model).exit_code == 1
    assert run("install", "code=x", model).exit_code == 2
    assert run("install", "code=0", model).exit_code == 2
    assert run("install", model).exit_code == 2
    with locked(ModelFolder(model)):
        assert run("install", "code", model).exit_code == 11


def test_remove_refuses(library, model, run):
    run("install", "math", model)
    assert run("remove", model).exit_code == 2
    assert run("remove", "math", model, "--all").exit_code == 2
    assert run("remove", "code", model).exit_code == 1
    assert run("remove", "math", model / "nowhere").exit_code == 1


def test_status_of_a_folder_without_skills(models, run, run_json):
    result = run("status", models.base)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no skill is installed" in result.stderr
    assert run_json("status", models.base)["managed"] is False
    assert run("status", models.base / "nowhere").exit_code == 1


def test_status_finds_a_changed_file(library, model, run):
    run("install", "math", model)
    with (model / SHARD).open("ab") as file:
        file.write(b"x")
    result = run("status", model)
    assert result.exit_code == 1
    assert f"changed: {SHARD}" in result.stdout
    assert "all files are as they were" not in result.stdout


def test_only_hashing_finds_a_change_that_hides(library, model, run):
    run("install", "math", model)
    kept = model / KEPT / SHARD
    times = kept.stat()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.chmod(0o644)
    kept.write_bytes(content)
    os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run("status", model).exit_code == 0
    result = run("status", model, "--verify", "--json")
    assert result.exit_code == 13
    assert json.loads(result.stdout)["differences"] == [{"path": f"{KEPT}/{SHARD}", "problem": "changed"}]


def test_status_beside_another_command(library, model, run):
    run("install", "math", model)
    folder = ModelFolder(model)
    with locked(folder):
        (folder.state / "staging-0").mkdir()
        result = run("status", model)
    assert result.exit_code == 11
    assert "another command is at work here" in result.stderr


@pytest.mark.parametrize("command", ["install", "remove"])
def test_quiet_is_quiet(command, library, model, run):
    if command == "remove":
        run("install", "math", model)
    result = run(command, "math", model, "-q")
    assert (result.exit_code, result.output) == (0, "")
