import os
import shutil

import pytest

import skillpack
from skillpack_store import Repository


def streams(library, name):
    """The file with the skill's streams."""
    repository = Repository.open(library)
    (layer, *_) = repository.skill_manifest(repository.resolve(name, "main").descriptor.digest).layers
    return repository.blobs.path(layer.digest)


def damage(library, name):
    """Flip one bit of the skill's streams."""
    path = streams(library, name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def names():
    return [skill.name for skill in skillpack.list()]


@pytest.mark.parametrize("command", ["list", "ls"])
def test_list(command, library, run):
    result = run(command)
    assert (result.exit_code, result.stderr) == (0, "")
    head, code, math = result.stdout.splitlines()
    assert head.split() == ["name", "version", "size", "date", "message"]
    assert code.split()[:2] == ["code", "1"]
    assert code.endswith("All the [code]")
    assert math.split()[:2] == ["math", "2"]


def test_list_of_a_branch_without_skills(library, run):
    for name in names():
        run("delete", name, "-y", "-q")
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no skill yet" in result.stderr


def test_text_of_others_cannot_speak_to_the_terminal(models, run):
    run("pack", models.base, models.code, "-m", "quiet\x1b[2Jplease", "--author", "A\u202eB")
    assert "quiet\\x1b[2Jplease" in run("list").stdout
    assert "A\\u202eB" in run("show", "code").stdout


def test_delete(library, run):
    result = run("delete", "math", "-y", "-m", "Not needed")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("deleted math@2")
    assert names() == ["code"]
    assert skillpack.show("math@2").summary.name == "math"


def test_a_dry_run_deletes_nothing(library, run):
    result = run("delete", "math", "--dry-run")
    assert result.exit_code == 0
    assert "dry run: nothing was changed" in result.stderr
    assert names() == ["code", "math"]


def test_nothing_is_deleted_without_a_yes(library, run):
    result = run("delete", "math")
    assert result.exit_code == 2
    assert "Add -y" in result.stderr
    assert names() == ["code", "math"]


@pytest.mark.parametrize(("answer", "exit_code", "left"), [("y", 0, ["code"]), ("n", 1, ["code", "math"])])
def test_delete_asks_at_a_terminal(answer, exit_code, left, library, asking):
    running, terminal = asking("delete", "math")
    os.write(terminal, answer.encode() + b"\n")
    assert running.wait(20) == exit_code
    assert names() == left


def test_export_and_import(library, home, tmp_path, run):
    archive = tmp_path / "my skills.tar"
    result = run("export", "math@1", "code", archive)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"exported math@1, code@1 to {archive}")
    assert result.stderr.endswith(f"next: skillpack import '{archive}'\n")
    digest = skillpack.show("math@1").skill.digest
    shutil.rmtree(home)
    result = run("import", archive)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("imported code@1, math@1")
    assert skillpack.show("math").skill.digest == digest


def test_import_under_another_name(library, tmp_path, run):
    run("export", "math", tmp_path / "math.tar")
    assert run("import", tmp_path / "math.tar", "--name", "sums", "-m", "From Ada").exit_code == 0
    assert names() == ["code", "math", "sums"]
    run("export", "math", "code", tmp_path / "both.tar")
    assert run("import", tmp_path / "both.tar", "--name", "both").exit_code == 2


def test_a_file_is_not_overwritten_without_a_yes(library, tmp_path, run):
    archive = tmp_path / "math.tar"
    archive.write_text("mine")
    result = run("export", "math", archive)
    assert result.exit_code == 2
    assert "Add -y" in result.stderr
    assert archive.read_text() == "mine"
    assert run("export", "math", archive, "-y").exit_code == 0
    assert archive.stat().st_size > 1000


def test_a_damaged_archive(library, home, tmp_path, run):
    archive = tmp_path / "math.tar"
    run("export", "math", archive)
    content = bytearray(archive.read_bytes())
    content[content.index(streams(library, "math").read_bytes()) + 100] ^= 1
    archive.write_bytes(content)
    shutil.rmtree(home)
    assert run("import", archive).exit_code == 13


def test_places_that_are_not_there(library, tmp_path, run):
    result = run("export", "math", tmp_path / "no" / "math.tar")
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr
    assert "hint: Check the path." in result.stderr
    assert run("export", "math", tmp_path).exit_code in {1, 2}
    assert run("import", tmp_path / "no.tar").exit_code == 1


def test_verify(library, run):
    result = run("verify")
    assert result.exit_code == 0
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [["ok", "code@1"], ["ok", "math@2"]]
    assert result.stderr.startswith("2 skills checked, ")
    assert run("verify", "math@1").stdout.startswith("ok math@1 sha256:")


def test_damage_is_found(library, run):
    damage(library, "math")
    assert run("verify").exit_code == 13
    assert run("verify", "code").exit_code == 0
    assert run("show", "math").exit_code == 13


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["show", "math"],
        ["delete", "math", "-y"],
        ["export", "math", "x"],
        ["verify"],
        ["install", "math", "."],
    ],
)
def test_without_a_store(arguments, run):
    result = run(*arguments)
    assert result.exit_code == 10
    assert "There is no store in" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["show", "maht"], ["delete", "maht"], ["export", "maht", "x"], ["verify", "maht"], ["show", "math@9"]]
)
def test_an_unknown_skill(arguments, library, run):
    result = run(*arguments)
    assert result.exit_code == 1
    assert "math" in result.stderr.partition("hint: ")[2]
