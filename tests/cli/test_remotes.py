import json
import shutil
from pathlib import Path

import pytest

import skillpack
from skillpack.errors import NotFoundError, RefusedError, UsageError
from skillpack_store import Repository


@pytest.fixture
def stick(tmp_path):
    return tmp_path / "stick" / "skills"


@pytest.fixture
def away(tmp_path):
    """Another person's store, not made yet."""
    return tmp_path / "away"


def head(store):
    return Repository.open(store).branches()["main"]


def test_from_one_machine_to_another(library, stick, away, run):
    assert run("remote", "add", "origin", stick).stderr.splitlines() == [
        f"added origin, {stick}",
        "next: skillpack push origin or pull origin",
    ]
    result = run("push")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"main: new -> {head(library)[:19]}\nsent ")
    assert run("push").stderr == f"{stick} is up to date\n"
    result = run("clone", stick, away)
    assert result.exit_code == 0, result.output
    assert [skill.digest for skill in skillpack.list(store=away)] == [skill.digest for skill in skillpack.list()]
    assert run("verify", "--store", away).exit_code == 0
    assert "All the [code]" in run("show", "code", "--store", away).stdout
    run("delete", "code", "-y")
    run("push")
    assert run("pull", "--store", away).stderr.splitlines()[1].startswith("main: ")
    assert [skill.name for skill in skillpack.list(store=away)] == ["math"]
    assert run("pull", "--store", away).stderr == "already up to date\n"


def test_only_some_skills(library, stick, away, run):
    run("push", stick)
    result = run("pull", stick, "code", "--store", away, "--author", "Bob", "-m", "For work")
    assert result.exit_code == 0, result.output
    (skill,) = skillpack.list(store=away)
    assert (skill.name, skill.author, skill.message) == ("code", "Bob", "For work")
    assert run("pull", stick, "code", "--tags", "--store", away).exit_code == 2
    assert run("pull", stick, "cdoe", "--store", away).exit_code == 1
    assert run("pull", stick, "-m", "Why", "--store", away).exit_code == 2


def test_who_comes_second_is_told(library, stick, away, run):
    run("remote", "add", "origin", stick)
    run("push")
    run("clone", stick, away)
    run("delete", "math", "-y")
    run("delete", "code", "-y", "--store", away)
    run("push")
    result = run("push", "--store", away)
    assert result.exit_code == 1
    assert head(library) in result.stderr
    assert head(away) in result.stderr
    assert "hint: Nothing was changed. Pull first" in result.stderr
    result = run("pull", "--store", away)
    assert result.exit_code == 1
    assert "skillpack merge origin/main. Or --force" in result.stderr
    assert run("log", "--rev", "origin/main", "-n", "1", "--store", away).stdout.count(head(library)[:19]) == 1
    assert run("merge", "origin/mian", "--store", away).stderr.startswith("error: No branch 'origin/mian' was fetched.")
    assert run("merge", "origin/main", "--dry-run", "--store", away).exit_code == 0
    assert run("push", "--force", "--store", away).stderr.count("(forced)") == 1
    assert json.loads(run("ls-remote", "--json").stdout)["refs"][0] == {"ref": "heads/main", "digest": head(away)}


def test_a_dry_run_says_the_bytes(library, stick, run, run_json):
    result = run("push", stick, "--dry-run")
    assert "would send" in result.stderr
    assert result.stderr.endswith("dry run: nothing was changed\n")
    assert not stick.exists()
    planned = run_json("push", stick, "--dry-run")
    done = run_json("push", stick)
    assert {**planned, "dry_run": False} == done
    assert done["bytes"] > 1000


def test_fetch_leaves_branches_alone(library, stick, away, run):
    run("push", stick)
    run("clone", stick, away)
    before = head(away)
    run("delete", "code", "-y")
    run("push", stick)
    result = run("fetch", "--store", away)
    assert result.stderr.startswith(f"origin/main: {before[:19]} -> {head(library)[:19]}\n")
    assert head(away) == before
    assert skillpack.list_remotes(store=away)[0].branches == {"main": head(library)}


def test_an_interrupted_clone_is_completed(library, stick, away, run):
    run("push", stick)
    skillpack.add_remote("origin", str(stick), store=away)
    assert run("clone", stick, away).exit_code == 0
    result = run("clone", stick, away)
    assert result.exit_code == 1
    assert "There is a library in" in result.stderr


def test_remote_alone_says_what_there_is(run):
    result = run("remote")
    assert result.exit_code == 0
    assert "set-url" in result.stdout


def test_clone_of_what_is_not_there(stick, away, run):
    result = run("clone", stick, away)
    assert result.exit_code == 1
    assert "There is no library in" in result.stderr
    assert not away.exists()
    with pytest.raises(NotFoundError, match="There is no library"):
        skillpack.clone(str(stick), away)


def test_clone_of_a_branch_that_is_not_there(library, stick, away, run):
    run("push", stick)
    result = run("clone", stick, away, "--branch", "trunk")
    assert "hint: Every branch there is: main." in result.stderr
    assert not away.exists()


def test_clone_makes_the_users_own_store(library, stick, home, run):
    run("push", stick)
    shutil.rmtree(home)
    assert run("clone", stick).exit_code == 0
    assert [skill.name for skill in skillpack.list()] == ["code", "math"]


def test_remotes_have_names(library, tmp_path, run):
    run("remote", "add", "origin", "s3://bucket/skills")
    run("remote", "add", "stick", tmp_path / "a b")
    assert [line.split(maxsplit=1) for line in run("remote", "list").stdout.splitlines()] == [
        ["name", "url"],
        ["origin", "s3://bucket/skills"],
        ["stick", str(tmp_path / "a b")],
    ]
    result = run("remote", "add", "origin", "https://example.org/x")
    assert result.exit_code == 1
    assert "set-url" in result.stderr
    run("remote", "set-url", "origin", "https://example.org/x")
    assert skillpack.list_remotes()[0].url == "https://example.org/x"
    assert run("remote", "remove", "stick").exit_code == 0
    assert [remote.name for remote in skillpack.list_remotes()] == ["origin"]
    result = run("remote", "remove", "orgin")
    assert result.exit_code == 1
    assert "Did you mean origin?" in result.stderr
    assert run("remote", "remove", "origin").exit_code == 0
    assert "there is no remote yet" in run("remote", "list").stderr
    assert run("remote").exit_code in {0, 2}


def test_a_removed_remote_leaves_no_trace(library, stick, run):
    run("remote", "add", "origin", stick)
    run("push")
    assert Repository.open(library).refs.list("remotes").keys() == {"origin/main"}
    run("remote", "remove", "origin")
    assert Repository.open(library).refs.list("remotes") == {}
    assert Repository.open(stick).branches()


@pytest.mark.parametrize("url", ["https://ada:secret@example.org/x", "s3://key:secret@bucket/x", "az://c/x?sig=secret"])
def test_secrets_are_not_kept(url, library, run):
    for arguments in (["remote", "add", "origin", url], ["push", url], ["clone", url, "x"]):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "There is a password or a key in this" in result.stderr
        assert "secret" not in result.output
    assert skillpack.list_remotes() == []


def test_a_relative_folder_means_the_same_everywhere(library, tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    run("remote", "add", "origin", "stick")
    assert skillpack.list_remotes()[0].url == str(tmp_path / "stick")


def test_plain_http_must_be_allowed(library, run):
    result = run("ls-remote", "http://example.org/skills")
    assert result.exit_code == 1
    assert "--insecure" in result.stderr
    with pytest.raises(RefusedError, match="plain HTTP"):
        skillpack.ls_remote("http://example.org/skills")


@pytest.mark.parametrize(("url", "message"), [("ftp://x/y", "No remote is known for ftp:"), ("origin", "no remote")])
def test_unknown_remotes(url, message, library, run):
    result = run("fetch", url)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert "hint: " in result.stderr


def test_in_python(library, stick, away):
    report = skillpack.push(str(stick))
    assert report.nbytes > 1000
    seen = []
    skillpack.pull(str(stick), store=away, progress=lambda done, total, what: seen.append((done, total, what)))
    (total,) = {total for _, total, what in seen if what == "receiving"}
    assert seen[-1] == (total, total, "receiving")
    assert skillpack.ls_remote(str(stick)) == {"heads/main": head(away), **_lists(library)}
    with pytest.raises(UsageError, match="single skills"):
        skillpack.pull(str(stick), "math", force=True)


def _lists(store):
    refs = Repository.open(store).refs.list("referrers")
    return {f"referrers/{name}": value.digest for name, value in refs.items()}


def test_what_remotes_json_holds(library, run):
    run("remote", "add", "origin", "http://127.0.0.1:9/x", "--insecure")
    path = Path(library) / "remotes.json"
    assert json.loads(path.read_text()) == {"remotes": {"origin": {"insecure": True, "url": "http://127.0.0.1:9/x"}}}
    path.write_text("{")
    result = run("remote", "list")
    assert result.exit_code == 13
    assert "remotes.json is damaged" in result.stderr


def test_a_skill_is_looked_at_where_it_is(library, stick, away, run, run_json):
    run("push", stick)
    here, there = run_json("show", "math"), run_json("show", "math", "--remote", stick, "--store", away)
    assert not away.exists()
    times = {"version", "time", "author", "message"}
    assert {key: value for key, value in there.items() if key not in times} == {
        key: value for key, value in here.items() if key not in times
    }
    assert there["version"] is None
    lines = run("show", "math", "--tensors").stdout.splitlines()[8:]
    assert run("show", "math", "--tensors", "--remote", stick).stdout.splitlines()[8:] == lines
    assert run("show", "math", "--card", "--remote", stick).stdout == run("show", "math", "--card").stdout
    assert run("show", "mth", "--remote", stick).exit_code == 1
    assert run("show", "math@1", "--remote", stick).exit_code == 1
