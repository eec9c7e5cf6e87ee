"""Real processes that write at once; with and without locks that work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from skillpack_store import Repository
from tests.store.skills import commit_skill, verify_everything

PROCESSES = 8
COMMITS = 4

WORKER = """
import contextlib, fcntl, os, sys
path, number, commits, patched = sys.argv[1], *map(int, sys.argv[2:5])
if patched:
    fcntl.flock = fcntl.lockf = lambda *arguments: None
from skillpack_store import BusyError, Repository, StoreError
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
repository = Repository.open_or_create(path)
shared = repository.put_skill(b"{}", "a/config", [([b"the same everywhere"], "a/layer")])
for turn in range(commits):
    name = f"skill-{number}-{turn}"
    skill = repository.put_skill(b"{}", "a/config", [([name.encode()], "a/layer"), ([b"common"], "a/layer")])
    commit = repository.commit(
        "main", lambda skills: {**skills, name: skill, "shared": shared}, author="A", message=name, tools={}
    )
    repository.tag(f"tag-{number}-{turn}", commit)
    repository.attach(shared, "a/card", [(name.encode(), "text/plain", name)])
    with contextlib.suppress(BusyError, StoreError):
        repository.tag("wanted", commit)
"""


@pytest.mark.parametrize("patched", [0, 1], ids=["plain", "locks that lock nothing"])
def test_nothing_is_lost_when_eight_processes_write_at_once(tmp_path, patched):
    path = tmp_path / "store"
    command = [sys.executable, "-W", "error", "-c", WORKER, str(path)]
    workers = [
        subprocess.Popen([*command, str(n), str(COMMITS), str(patched)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout.readline() == b"ready\n"
    for worker in workers:
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0] * PROCESSES

    repository = Repository.open(path)
    names = {f"{n}-{turn}" for n in range(PROCESSES) for turn in range(COMMITS)}
    assert set(repository.skills()) == {f"skill-{name}" for name in names} | {"shared"}
    history = list(repository.history())
    assert sorted(commit.message for commit in history) == sorted(f"skill-{name}" for name in names)
    tags = repository.tags()
    assert set(tags) == {f"tag-{name}" for name in names} | {"wanted"}
    for name in names:
        assert repository.read_commit(tags[f"tag-{name}"]).message == f"skill-{name}"
    assert len(repository.refs.log("tags/wanted")) == 1
    assert len(repository.referrers(repository.skills()["shared"].digest)) == len(names)
    verify_everything(repository)
    assert not list(path.rglob("*.tmp"))
    # The view caught up with all of it, although everybody rewrote it all the time.
    before = (path / "index.json").read_bytes()
    (path / "index.json").unlink()
    repository.tag("wanted", tags["wanted"])
    assert (path / "index.json").read_bytes() == before


def test_no_lock_is_taken(tmp_path, monkeypatch):
    import fcntl

    def refuse(*arguments):
        raise AssertionError("a lock was taken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    commit_skill(Repository.open_or_create(tmp_path / "store"), "math", "one")
