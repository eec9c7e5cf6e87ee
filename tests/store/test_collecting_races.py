"""Collections beside writers and beside each other, with a grace period of nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from skillpack_store import NotFoundError, Repository
from skillpack_store import collecting as module
from skillpack_store.collecting import collect_garbage
from skillpack_store.fsck import check_store
from tests.store.skills import WHO, commit_skill, put_skill, verify_everything
from tests.store.test_collecting import age, parts

NOW = {"grace": 0.0, "trash_grace": 0.0}

WORKER = """
import contextlib, fcntl, sys
path, number, turns, patched, announced = sys.argv[1], *map(int, sys.argv[2:6])
if patched:
    fcntl.flock = fcntl.lockf = lambda *arguments: None
from skillpack_store import NotFoundError, Repository
from skillpack_store.collecting import collect_garbage
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
repository = Repository.open(path)

def write(name):
    with repository.writing() if announced else contextlib.nullcontext():
        # The same skill again and again: it is collected between one turn and the next, or while it is committed.
        again = repository.put_skill(b"{}", "a/config", [([b"the same everywhere"], "a/layer")])
        skill = repository.put_skill(b"{}", "a/config", [([name.encode()], "a/layer"), ([b"common"], "a/layer")])
        commit = repository.commit(
            "main", lambda skills: {**skills, name: skill, "again": again}, author="A", message=name, tools={}
        )
        repository.tag(f"tag-{name}", commit)
        repository.attach(skill, "a/card", [(name.encode(), "text/plain", name)])
        repository.commit(f"only-{name}", lambda _: {"again": again}, author="A", message=name, tools={})

refused = 0
for turn in range(turns):
    name = f"skill-{number}-{turn}"
    while True:
        try:
            write(name)
            break
        except NotFoundError:
            # Refused, before any ref names it: what was put was collected before it was committed.
            assert not announced
            refused += 1
    head = repository.head(f"only-{name}")
    repository.refs.delete(f"heads/only-{name}", expected=head.digest)
    with contextlib.suppress(NotFoundError):
        repository.delete("again", author="A", message="delete", tools={})
    collect_garbage(repository, grace=0, trash_grace=0, expiry=0 if number % 2 else 7776000)
sys.stdout.write(f"{refused}\\n")
"""


@pytest.mark.parametrize(
    ("processes", "patched", "announced"),
    [(8, 0, 1), (8, 1, 1), (2, 1, 1), (4, 1, 0)],
    ids=["eight", "eight, locks that lock nothing", "two", "four that do not announce themselves"],
)
def test_no_commit_is_lost_and_no_blob_in_use_collected(tmp_path, processes, patched, announced):
    path = tmp_path / "store"
    commit_skill(Repository.create(path), "first", "first")
    turns = 3
    command = [sys.executable, "-W", "error", "-c", WORKER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [
        subprocess.Popen([*command, str(n), str(turns), str(patched), str(announced)], **pipes)
        for n in range(processes)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert errors == [""] * processes

    repository = Repository.open(path)
    names = {f"skill-{n}-{turn}" for n in range(processes) for turn in range(turns)}
    assert names <= set(repository.skills())
    assert {f"tag-{name}" for name in names} == set(repository.tags())
    for name in names:
        assert len(repository.referrers(repository.skills()[name].digest)) == 1
    verify_everything(repository)
    assert check_store(repository, level="full").errors == []
    # Deleted branches with a log that expires at once: in the end all garbage goes.
    collect_garbage(repository, expiry=0, **NOW)
    verify_everything(repository)
    assert check_store(repository, level="full").errors == []
    assert not list((path / "writers").iterdir())


class Interrupted:
    """Does something once, right before or after a step of a collection."""

    def __init__(self, monkeypatch, step, action, *, before):
        real = getattr(module._Collection, step)

        def patched(collection, *arguments):
            if before:
                self.run(action)
            result = real(collection, *arguments)
            if not before:
                self.run(action)
            return result

        self.done = False
        monkeypatch.setattr(module._Collection, step, patched)

    def run(self, action):
        if not self.done:
            self.done = True
            action()


@pytest.mark.parametrize("step", ["mark", "sweep", "delete", "unlist", "relist"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("way", ["put and commit", "commit", "begun earlier"])
def test_a_commit_between_any_two_steps(repository, monkeypatch, step, before, way):
    commit_skill(repository, "math", "one")
    skill = put_skill(repository, "reused")
    repository.attach(skill, "a/card", [(b"card", "text/plain", "card")])
    age(repository, 1000)
    writer = repository.writing()
    if way == "begun earlier":
        writer.__enter__()
        for digest in parts(repository, skill):
            repository.blobs.refresh(digest)
    outcome = []

    def act():
        other = Repository.open(repository.path)
        try:
            again = put_skill(other, "reused") if way == "put and commit" else skill
            other.commit("main", lambda skills: {**skills, "again": again}, message="", **WHO)
            outcome.append("committed")
        except NotFoundError:
            outcome.append("refused")

    Interrupted(monkeypatch, step, act, before=before)
    collect_garbage(repository, **NOW)
    if way == "begun earlier":
        writer.__exit__(None, None, None)
    assert outcome == ["committed"] or (way == "commit" and (step, before) == ("delete", False))
    assert ("again" in repository.skills()) == (outcome == ["committed"])
    verify_everything(repository)
    assert check_store(repository, level="full").errors == []
    if outcome == ["committed"] and (way == "begun earlier" or step in {"mark", "sweep"}):
        assert len(repository.referrers(skill.digest)) == 1 or (step, before) != ("mark", True)


def test_a_blob_that_is_used_again_between_mark_and_sweep_stays(repository, monkeypatch):
    commit_skill(repository, "math", "one")
    skill = put_skill(repository, "reused")
    age(repository, 1000)
    Interrupted(monkeypatch, "sweep", lambda: put_skill(repository, "reused"), before=True)
    assert collect_garbage(repository, **NOW).trashed.number == 0
    assert repository.skill_manifest(skill.digest)


def test_a_blob_that_is_touched_on_its_way_to_the_trash_comes_back(repository, monkeypatch):
    commit_skill(repository, "math", "one")
    digest = repository.blobs.put([b"x"]).digest
    age(repository, 1000)

    def act():
        (path,) = repository.path.glob("trash/*/*")
        os.utime(path, (time.time(), time.time()))

    Interrupted(monkeypatch, "sweep", act, before=False)
    report = collect_garbage(repository, **NOW)
    assert (report.trashed.number, report.restored.number, report.deleted.number) == (1, 1, 0)
    assert repository.blobs.peek(digest) == 1


def test_a_commit_during_another_collection_that_died(repository, monkeypatch):
    """One collection took blobs away right after a commit had made sure of them, and died; another is to delete."""
    commit_skill(repository, "math", "one")
    skill = put_skill(repository, "reused")
    age(repository, 1000)

    def die_with_what_somebody_committed():
        other = module._Collection(Repository.open(repository.path), 0.0, 0.0, 0.0, dry_run=False)
        other.mark()
        real, done = module.disk.rename, []

        def rename(source, target):
            if not done and target.parent.parent.name == "trash":
                done.append(True)
                again = Repository.open(repository.path)
                again.commit("main", lambda skills: {**skills, "again": skill}, message="", **WHO)
                age(repository, 1000, *parts(repository, skill))
            real(source, target)

        # As if the time had been looked at before the commit, for all of them.
        for digest in other.unused:
            other.unused[digest] = repository.blobs.path(digest).stat().st_mtime
        with monkeypatch.context() as patch:
            patch.setattr(module.disk, "rename", rename)
            other.sweep()
        assert repository.trash.find(skill.digest) is not None or repository.blobs.peek(skill.digest) is not None

    Interrupted(monkeypatch, "mark", die_with_what_somebody_committed, before=False)
    report = collect_garbage(repository, **NOW)
    assert report.deleted.number == 0
    assert repository.skills()["again"] == skill
    verify_everything(repository)
    assert check_store(repository, level="full").findings == []
