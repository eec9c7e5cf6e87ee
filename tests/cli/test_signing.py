"""Keys, signatures and the policy at the command line, and what they do to install, import and verify."""

from __future__ import annotations

import json
import os

import pytest

from skillpack.settings import PASSWORD_VARIABLE


@pytest.fixture(autouse=True)
def no_password(monkeypatch):
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)


@pytest.fixture
def ada(home, run):
    assert run("key", "new", "ada", "--no-password").exit_code == 0
    return home / "keys" / "ada.pub"


def test_the_whole_way(library, ada, model, run, tmp_path):
    """Signed, exported, imported elsewhere where the key is trusted, verified and installed."""
    result = run("sign", "math", "--key", "ada")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("signed math with key ")
    run("export", "math", tmp_path / "math.tar")
    assert run("policy", "trust", ada, "--name", "Ada", "--skills", "ma*").exit_code == 0
    assert run("policy", "set", "require").exit_code == 0
    other = tmp_path / "other"
    assert run("import", tmp_path / "math.tar", "--store", other).exit_code == 0
    result = run("verify", "--store", other)
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith(" signed by Ada")
    assert run("install", "math", model, "--store", other).exit_code == 0


def test_what_is_not_signed_is_not_installed(library, ada, model, run):
    run("policy", "trust", "ada", "--name", "Ada")
    run("policy", "set", "require")
    before = sorted(model.rglob("*"))
    for force in ([], ["--force"]):
        result = run("install", "math", model, *force)
        assert result.exit_code == 14
        assert "a signature by Ada is missing; it has no signature at all" in result.stderr
        assert "hint: " in result.stderr
    assert sorted(model.rglob("*")) == before
    run("policy", "set", "off", "-q")
    assert run("install", "math", model).exit_code == 0


def test_what_is_not_signed_is_not_imported(library, ada, run, tmp_path):
    run("export", "math", tmp_path / "math.tar")
    run("policy", "set", "require")
    result = run("import", tmp_path / "math.tar", "--name", "other")
    assert result.exit_code == 14
    assert "your policy trusts nobody for it" in result.stderr
    assert "other" not in run("list").stdout


def test_a_skill_that_was_signed_under_another_name_is_not_imported(library, ada, run, tmp_path):
    before = run("show", "code").stdout
    run("sign", "math", "--key", "ada")
    run("export", "math", tmp_path / "math.tar")
    run("policy", "trust", "ada", "--name", "Ada")
    run("policy", "set", "require")
    result = run("import", tmp_path / "math.tar", "--name", "code")
    assert result.exit_code == 14
    assert "Ada: is of a skill called math, not code" in result.stderr
    assert run("show", "code").stdout == before


def test_warnings_are_talk(library, model, run, ada):
    run("policy", "set", "warn")
    result = run("install", "math", model, "--dry-run")
    assert result.exit_code == 0
    assert "warning: The skill math " in result.stderr
    result = run("install", "math", model, "--dry-run", "-q")
    assert (result.exit_code, result.stderr) == (0, "")
    result = run("verify", "math", "--json")
    assert json.loads(result.stdout)["skills"][0]["signers"] == []
    assert result.stderr.startswith("warning: ")


def test_verify_what_only_a_tag_on_another_branch_has(library, ada, run, tmp_path):
    run("export", "code", tmp_path / "code.tar")
    run("branch", "side")
    run("import", tmp_path / "code.tar", "--name", "fresh", "--branch", "side")
    run("tag", "v1", "side")
    run("sign", "fresh@v1", "--key", "ada")
    result = run("verify", "fresh@v1", "--key", "ada")
    assert (result.exit_code, result.stdout[:8]) == (0, "ok fresh"), result.stderr
    assert result.stdout.endswith(" signed by ada\n")


def test_verify_with_a_key(library, ada, run, home):
    run("sign", "math", "--key", "ada")
    run("key", "new", "bob", "--no-password")
    assert "signed by ada" in run("verify", "math", "--key", "ada").stdout
    assert f"signed by {ada}" in run("verify", "math", "--key", "bob", "--key", ada).stdout
    result = run("verify", "math", "--key", "bob")
    assert result.exit_code == 14
    assert "a signature by bob is missing; found: key " in result.stderr
    result = run("verify", "--key", "ada")
    assert result.exit_code == 14
    assert "The skill code" in result.stderr
    assert run("verify", "math", "--key", "eve").exit_code == 2


def test_damage_comes_before_signatures(library, ada, run):
    from tests.cli.test_library import damage

    damage(library, "math")
    assert run("sign", "math", "--key", "ada").exit_code == 13
    assert run("signatures", "math").stdout == ""
    assert run("verify", "math", "--key", "ada").exit_code == 13


def test_signatures_are_listed(library, ada, run):
    result = run("signatures", "math")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "math has no signature" in result.stderr
    run("sign", "math", "--key", "ada")
    head, line = run("signatures", "math").stdout.splitlines()
    assert head.split() == ["key", "signer", "skill", "state"]
    assert line.endswith("nobody whom you trust has this key")
    assert run("signatures", "math", "--key", "ada").stdout.splitlines()[1].endswith("holds")


def test_a_key_can_have_a_password(library, run, monkeypatch, run_json):
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    assert run_json("key", "new", "ada")["encrypted"]
    assert run("sign", "math", "--key", "ada").exit_code == 0
    monkeypatch.setenv(PASSWORD_VARIABLE, "other")
    result = run("sign", "math", "--key", "ada")
    assert result.exit_code == 2
    assert "not the password" in result.stderr
    monkeypatch.delenv(PASSWORD_VARIABLE)
    result = run("sign", "math", "--key", "ada")
    assert result.exit_code == 2
    assert f"Set {PASSWORD_VARIABLE}" in result.stderr


def test_a_new_key_asks_for_a_password_or_says_why_not(run, home):
    result = run("key", "new", "ada")
    assert result.exit_code == 2
    assert "--no-password" in result.stderr
    assert not (home / "keys").exists()


def test_a_password_is_asked_for_at_a_terminal(process, home):
    import pty

    ours, theirs = pty.openpty()
    running = process("key", "new", "ada", "--json", stdin=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    for answer in (b"secret\n", b"secret\n"):
        while not seen.rstrip().endswith(b":"):
            seen += os.read(ours, 1000)
        os.write(ours, answer)
        seen = os.read(ours, 1)
    printed, _ = running.communicate(timeout=30)
    os.close(ours)
    assert json.loads(printed)["encrypted"]
    assert b"ENCRYPTED" in (home / "keys" / "ada.key").read_bytes()


def test_keys_are_listed_and_shown(ada, run):
    result = run("key", "show", "ada")
    assert result.stdout == ada.read_text()
    key_id = result.stderr.split()[-1]
    assert run("key", "list").stdout.splitlines()[1].split()[:3] == ["ada", key_id, "no"]


def test_without_keys(run):
    result = run("key", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "skillpack key new NAME" in result.stderr


def test_the_policy_is_shown(ada, run):
    assert run("policy", "show").stdout == "mode: off\n"
    result = run(
        "policy", "trust", "ada", "--name", "Ada", "--skills", "a*", "--skills", "b", "--expires", "2031-01-01"
    )
    assert "Ada may sign a*, b; key id" in result.stderr
    assert "skillpack policy set require" in result.stderr
    lines = run("policy", "show").stdout.splitlines()
    assert lines[2].split()[-1] == "2031-01-01"
    assert run("policy", "untrust", "Ada", "--revoke").exit_code == 0
    assert run("policy", "show").stdout.splitlines()[2].endswith("revoked")
    assert run("policy", "trust", "ada", "--name", "Ada").exit_code == 1
    assert run("policy", "untrust", "Ada").exit_code == 0
    assert "nobody is trusted yet" in run("policy", "show").stderr


def test_what_is_not_signed_is_not_pulled_by_name(library, ada, run, tmp_path):
    assert run("push", tmp_path / "stick/").exit_code == 0
    run("policy", "trust", "ada", "--name", "Ada")
    run("policy", "set", "require")
    other = tmp_path / "other"
    result = run("pull", tmp_path / "stick/", "math", "--store", other)
    assert result.exit_code == 14
    assert "a signature by Ada is missing" in result.stderr
    assert "math" not in run("list", "--store", other).stdout
    run("sign", "math", "--key", "ada")
    assert run("push", tmp_path / "stick/").exit_code == 0
    assert run("pull", tmp_path / "stick/", "math", "--store", other).exit_code == 0
    assert "math" in run("list", "--store", other).stdout


def test_a_damaged_policy_stops_everything_that_asks_it(library, model, home, run):
    (home / "policy.json").write_text("{}")
    for command in (("install", "math", model), ("verify", "math"), ("policy", "set", "off")):
        result = run(*command)
        assert result.exit_code == 1
        assert "policy.json is damaged" in result.stderr


@pytest.mark.parametrize("group", ["key", "policy"])
def test_a_group_alone_shows_its_help(group, run):
    result = run(group)
    assert result.exit_code == 0
    assert result.stdout == run(group, "-h").stdout
