"""Commands that look at the history: log, diff, reflog."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack.cli.lanes import draw


@pytest.fixture
def forked(library, run):
    """code changed on try, math deleted on main."""
    assert run("branch", "try").exit_code == 0
    assert run("restore", "try~2", "code", "--branch", "try", "-m", "Without code").exit_code == 0
    assert run("delete", "math", "-y").exit_code == 0
    return library


def rows(text):
    return [line.split() for line in text.splitlines()]


def test_log(library, run, run_json):
    result = run("log")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    assert head.split() == ["commit", "date", "author", "message"]
    assert [line.split("Ada")[1].strip() for line in lines] == ["(main) All the [code]", "Pack math", "Pack math"]
    commits = run_json("log")["commits"]
    assert [commit["digest"][:19] for commit in commits] == [line.split()[0] for line in lines]
    assert [commit["added"] for commit in commits] == [["code"], [], ["math"]]
    assert [commit["changed"] for commit in commits] == [[], ["math"], []]
    assert commits[0]["parents"] == [commits[1]["digest"]]
    assert len(rows(run("log", "-n", "2").stdout)) == 3
    assert run_json("log", "--rev", commits[1]["digest"][:19])["commits"] == [
        {**commit, "refs": []} for commit in commits[1:]
    ]


def test_log_of_a_skill(forked, run, run_json):
    commits = run_json("log", "math")["commits"]
    assert [(commit["version"], commit["removed"]) for commit in commits] == [(None, ["math"]), (2, []), (1, [])]
    head, first, second, third = rows(run("log", "math").stdout)
    assert head[:3] == ["commit", "version", "size"]
    assert (first[1], second[1], third[1]) == ("removed", "2", "1")
    assert [commit["size"] for commit in commits[1:]] == [
        run_json("show", f"math@{number}")["size"] for number in (2, 1)
    ]
    result = run("log", "maht")
    assert result.exit_code == 1
    assert "Did you mean math?" in result.stderr


def test_log_draws_the_history(forked, run, run_json):
    assert run("merge", "try").exit_code == 0
    drawn = [line.partition("sha256:")[0].rstrip() for line in run("log", "--graph").stdout.splitlines()[1:]]
    assert drawn in (["*", "|\\", "| *", "* |", "|/", "*", "*", "*"], ["*", "|\\", "* |", "| *", "|/", "*", "*", "*"])
    assert len(run_json("log", "--graph")["commits"]) == 6


def test_reflog(forked, run, run_json):
    entries = run_json("reflog", "try")["entries"]
    assert [entry["revision"] for entry in entries] == ["try@{0}", "try@{1}"]
    assert entries[0]["message"] == "Without code"
    assert run("branch", "-d", "try", "-y").exit_code == 0
    lines = rows(run("reflog", "try").stdout)
    assert lines[1][:2] == ["try@{0}", "deleted"]
    assert lines[2][:2] == ["try@{1}", entries[0]["digest"][:19]]
    assert len(run_json("reflog", "-n", "1")["entries"]) == 1
    assert run("reflog", "none").exit_code == 1


def test_diff(forked, run, run_json):
    result = run("diff", "main~2", "main~1")
    assert (result.exit_code, result.stderr) == (0, "1 skill added\n")
    assert rows(result.stdout)[1][:3] == ["+", "code", "1"]
    assert rows(run("diff", "main~1").stdout)[1][:2] == ["-", "math"]
    changed = run("diff", "main~3", "main~2")
    assert rows(changed.stdout)[1][:5] == ["~", "math", "1", "->", "2"]
    found = run_json("diff", "main~3", "main~2")
    assert found["skills"][0]["before"]["version"] == 1
    assert found["skills"][0]["tensors"] == []
    assert "no skill is different" in run("diff", "main", "main").stderr
    assert run("diff", "nothing").exit_code == 1


def test_diff_by_tensors(forked, models, run, run_json):
    text = run("diff", "main~3", "main~2", "--tensors").stdout
    assert "without the base" in text
    text = run("diff", "main~3", "main~2", "--tensors", "--base", models.base).stdout
    assert "without the base" not in text
    (skill,) = run_json("diff", "main~3", "main~2", "--tensors", "--base", models.base)["skills"]
    assert skill["moved"] > 0
    assert 0 < skill["overlap"] <= 1
    by_name = {item["tensor"]: item for item in skill["tensors"]}
    assert by_name["score.weight"]["moved"] == 0
    assert by_name["model.embed_tokens.weight"]["codecs_before"] == ["exact"]
    other = run("diff", "main~3", "main~2", "--tensors", "--base", models.other)
    assert (other.exit_code, "another base" in other.stderr) == (12, True)


@pytest.mark.parametrize("command", ["log", "list", "reflog", "branch", "tag"])
def test_looking_at_the_history_imports_nothing_heavy(library, command):
    code = (
        "import sys\nfrom skillpack.cli.root import root\n"
        f"try: root([{command!r}, '--json'])\nexcept SystemExit: pass\n"
        "sys.exit(str({'torch', 'numpy', 'transformers', 'zstandard', 'rich'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.stderr == "set()\n"


@given(st.data())
def test_any_history_can_be_drawn(data):
    """Every commit has its row and its mark, and the lanes below it are as many as commits that are waited for."""
    size = data.draw(st.integers(1, 12))
    commits = []
    for index in range(size):
        later = list(range(index + 1, size))
        parents = data.draw(st.lists(st.sampled_from(later), max_size=3, unique=True)) if later else []
        commits.append((str(index), [str(parent) for parent in parents]))
    drawn = list(draw(commits))
    marked = [row for row in drawn if row.commit is not None]
    assert [row.commit for row in marked] == list(range(size))
    seen = set()
    for row in marked:
        assert row.drawn.count("*") == 1
        assert set(row.drawn) <= set("*| ")
        index = row.commit
        waited = {parent for _, parents in commits[:index] for parent in parents} - seen - {str(index)}
        assert row.drawn.count("|") >= len(waited - {str(number) for number in range(index)})
        seen.add(str(index))
    assert all(set(row.drawn) <= set("|/\\_ ") for row in drawn if row.commit is None)
