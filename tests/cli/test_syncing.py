"""Commands lock and sync."""

import pytest

from tests.cli.conftest import model_files


@pytest.fixture
def locked(library, run, tmp_path):
    assert run("lock", "math=0.5", "-o", tmp_path / "skills.lock").exit_code in {0, 2}
    assert run("lock", "code", "-o", tmp_path / "skills.lock").exit_code == 0
    return tmp_path / "skills.lock"


def test_lock(library, run, run_json, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("lock")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "locked code@1, math@2 in skills.lock\nnext: skillpack sync MODEL_DIR\n"
    first = (tmp_path / "skills.lock").read_bytes()
    document = run_json("lock", "code=0.5")
    assert [(skill["name"], skill["weight"]) for skill in document["skills"]] == [("code", 0.5)]
    assert (tmp_path / "skills.lock").read_bytes() != first
    assert "--lock 'a b'" in run("lock", "-o", "a b").stderr


def test_sync(locked, models, model, run, run_json):
    base = model_files(model)
    result = run("sync", model, "--lock", locked, "--check")
    assert result.exit_code == 1
    assert "would install code" in result.stderr
    assert "does not match" in result.stderr
    assert model_files(model) == base
    assert "would install code" in run("sync", model, "--lock", locked, "--dry-run").stderr
    assert model_files(model) == base
    result = run("sync", model, "--lock", locked)
    assert (result.exit_code, result.stderr.startswith("install code\n")) == (0, True)
    assert run_json("status", model)["skills"][0]["label"] == "code@1"
    result = run("sync", model, "--lock", locked, "--check")
    assert (result.exit_code, "has exactly the 1 locked skill" in result.stderr) == (0, True)
    run("lock", "code=0.5", "-o", locked)
    document = run_json("sync", model, "--lock", locked)
    assert (document["reweigh"], document["in_sync"]) == (["code"], False)
    assert run_json("status", model)["skills"][0]["weight"] == 0.5


def test_missing_skills(locked, model, run, tmp_path):
    result = run("sync", model, "--lock", locked, "--store", tmp_path / "elsewhere")
    assert (result.exit_code, "1 of the 1 locked skills" in result.stderr) == (1, True)


def test_no_lock(model, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("sync", model)
    assert (result.exit_code, "skillpack lock -o skills.lock" in result.stderr) == (1, True)
