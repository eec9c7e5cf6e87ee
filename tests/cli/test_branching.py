"""Commands that change the history: branch, tag, merge, restore, revert, undelete."""

import os

import pytest

import skillpack


def heads():
    return {ref.name: ref.digest for ref in skillpack.branch()}


def versions():
    return {skill.name: skill.version for skill in skillpack.list()}


def test_branches(library, run, run_json):
    result = run("branch", "try", "main~1")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"branch try is at {heads()['try'][:19]}: Pack math\n")
    assert [line.split()[:3] for line in run("branch").stdout.splitlines()] == [
        ["name", "commit", "skills"],
        ["main", heads()["main"][:19], "2"],
        ["try", heads()["try"][:19], "1"],
    ]
    assert run_json("branch")["branches"][1]["message"] == "Pack math"
    again = run("branch", "try", "main")
    assert (again.exit_code, "exists and names commit" in again.stderr) == (1, True)


def test_a_branch_is_deleted_only_after_a_question(library, run, asking):
    run("branch", "try", "main")
    assert run("restore", "main~2", "--branch", "try").exit_code == 0
    result = run("branch", "-d", "try")
    assert result.exit_code == 2
    assert "1 commit would have no other name" in result.stderr
    assert run("branch", "-d", "try", "--dry-run").stderr.startswith("would delete branch try, which named sha256:")
    assert "try" in heads()
    running, terminal = asking("branch", "--delete", "try")
    os.write(terminal, b"n\n")
    assert running.wait(20) == 1
    assert "try" in heads()
    result = run("branch", "-d", "try", "-y")
    assert result.exit_code == 0
    assert "skillpack undelete try brings it back" in result.stderr
    assert "try" not in heads()
    assert run("branch", "-d", "try", "-y").exit_code == 1


@pytest.mark.parametrize("command", ["branch", "tag"])
@pytest.mark.parametrize("arguments", [["-d"], ["-d", "a", "b"], ["a", "--dry-run"]])
def test_what_makes_no_sense(library, run, command, arguments):
    assert run(command, *arguments).exit_code == 2


def test_tags(library, run, run_json):
    assert "there is no tag yet" in run("tag").stderr
    assert run("tag", "v1", "main~1").exit_code == 0
    assert run_json("show", "math@v1")["version"] == 2
    refused = run("tag", "v1", "main~2")
    assert (refused.exit_code, "exists and names" in refused.stderr) == (1, True)
    assert run("tag", "v1", "main~2", "--force").exit_code == 0
    assert run_json("show", "math@v1")["version"] == 1
    assert run("tag", "-d", "v1").exit_code == 2
    assert run("tag", "-d", "v1", "-y").exit_code == 0
    assert run_json("tag") == {"tags": []}
    assert run_json("undelete", "v1")["kind"] == "undelete"
    assert run_json("tag")["tags"][0]["name"] == "v1"


def test_merge(library, run, run_json):
    run("branch", "try")
    run("delete", "code", "-y")
    run("restore", "main~3", "math", "--branch", "try")
    result = run("merge", "try", "--dry-run")
    assert "would do: merged try into main\nchanged: math\ndry run: nothing was changed\n" in result.stderr
    assert versions() == {"math": 2}
    change = run_json("merge", "try", "-m", "Both")
    assert (change["kind"], [skill["name"] for skill in change["changes"]]) == ("merge", ["math"])
    assert versions() == {"math": 1}
    assert run_json("log", "-n", "1")["commits"][0]["message"] == "Both"
    assert "nothing had to change" in run("merge", "try").stderr


def test_conflicts_are_named_until_it_is_said_whose_to_take(library, run, run_json):
    run("branch", "try")
    run("delete", "math", "-y", "--branch", "try")
    run("restore", "main~2", "math")
    result = run("merge", "try")
    assert result.exit_code == 1
    assert "math (changed in ours, deleted in theirs)" in result.stderr
    assert "--take math=theirs" in result.stderr
    assert versions() == {"code": 1, "math": 1}
    for wrong in (["--take", "math"], ["--take", "=ours"]):
        assert run("merge", "try", *wrong).exit_code == 2
    change = run_json("merge", "try", "--take", "math=main~1", "--dry-run")
    assert change["changes"][0]["kind"] == "changed"
    result = run("merge", "try", "--theirs")
    assert "removed: math (conflict: changed in ours, deleted in theirs)" in result.stderr
    assert versions() == {"code": 1}


def test_restore_revert_undelete(library, run, run_json):
    assert "restored math to main~2" in run("restore", "main~2", "math").stderr
    assert versions() == {"code": 1, "math": 1}
    assert "undid main on main" in run("revert", "main").stderr
    assert versions() == {"code": 1, "math": 2}
    conflict = run("revert", "main~4")
    assert (conflict.exit_code, "math (changed since)" in conflict.stderr) == (1, True)
    run("delete", "code", "-y")
    assert "code is back" in run("undelete", "code").stderr
    assert versions() == {"code": 1, "math": 2}
    assert run("undelete", "code").exit_code == 1
    assert "nothing had to change" in run("restore", "main").stderr
    assert run_json("restore", "main~1", "--dry-run")["commit"] is None


def test_undelete_asks_what_it_was(library, run):
    run("branch", "code")
    run("branch", "-d", "code", "-y")
    run("delete", "code", "-y")
    result = run("undelete", "code")
    assert (result.exit_code, "--kind" in result.stderr) == (2, True)
    assert run("undelete", "code", "--kind", "branch").exit_code == 0
    assert run("undelete", "code").exit_code == 0
    assert (set(heads()), set(versions())) == ({"main", "code"}, {"code", "math"})


def test_who_and_why(library, run, run_json):
    for command in (["restore", "main~1"], ["revert", "main"], ["undelete", "code"]):
        if command[0] == "undelete":
            run("delete", "code", "-y")
        assert run(*command, "-m", "Because", "--author", "Bo").exit_code == 0
        (commit,) = run_json("log", "-n", "1")["commits"]
        assert (commit["author"], commit["message"]) == ("Bo", "Because")
