import os
import shutil

from skillpack.installing.lock import locked
from skillpack.installing.model_folder import ModelFolder
from tests.cli.conftest import model_files


def test_install_status_remove(library, models, model, run):
    before = model_files(model)
    installed = run("install", "math@1", "code=0.5", model, "--force")
    assert installed.exit_code == 1, "math changes the shape of nothing, but exact parts cannot be added twice"


def test_an_exact_skill_gives_the_fine_tune(library, models, model, run):
    before = model_files(model)
    installed = run("install", "math@1", model)
    assert installed.exit_code == 0
    assert installed.stdout == ""
    lines = installed.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"installed math on {model}: ")
    assert lines[1] == "installed now: math@1"
    assert lines[2] == f"next: skillpack remove math {model}"
    assert model_files(model) != before

    found = run("status", model)
    assert found.exit_code == 0
    assert "math@1" in found.stdout
    assert "all files are as they were after the install (by size and time" in found.stdout

    removed = run("remove", "math", model)
    assert removed.exit_code == 0
    assert "no skill is left: every byte of the base is back" in removed.stderr
    assert model_files(model) == before
    assert not (model / ".skillpack").exists()
