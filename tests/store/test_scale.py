"""Two thousand commits of two hundred skills: what `list`, `log` and `resolve` read, and how long they take."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from skillpack_store import Commit, Repository, number_versions, sorted_records
from tests.pace import paced
from tests.store.skills import put_skill

COMMITS = 2000
SKILLS = 200
SECONDS = 0.5  # of processor time, Python's start included


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store with a long history, written without waiting for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        repository = Repository.create(tmp_path_factory.mktemp("large") / "store")
        names = [f"skill-{number:03}" for number in range(SKILLS)]
        skills = {name: put_skill(repository, name) for name in names}
        spare = [put_skill(repository, f"version {number}") for number in range(COMMITS // SKILLS)]
        parents: list[Commit] = []
        for number in range(COMMITS):
            name = names[number * 7 % SKILLS]
            skills[name] = spare[number // SKILLS]
            before = tuple(parent.digest for parent in parents)
            time = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
            data = Commit.build(
                skills,
                parents=before,
                author="Ada",
                time=time,
                message=f"Change {name}",
                tools={},
            )
            digest = repository.blobs.put([data]).digest
            commit = Commit(digest, dict(skills), before, "Ada", time, f"Change {name}", {})
            repository.graph.note(commit, parents)
            parents = [commit]
        repository.refs.update("heads/main", parents[0].digest, expected=None)
        repository.graph.settle()
    return repository


@pytest.fixture
def reads(monkeypatch):
    """Digests of the documents that are read."""
    found = []
    read = Repository.read_document
    monkeypatch.setattr(
        Repository, "read_document", lambda self, digest, parse: found.append(digest) or read(self, digest, parse)
    )
    return found


def test_what_is_read_does_not_grow_with_the_history(large, reads):
    repository = Repository.open(large.path)
    head = repository.branches()["main"]
    assert len(list(sorted_records(repository, head))) == COMMITS
    assert len(number_versions(repository, head)) == SKILLS
    assert reads == []
    assert repository.resolve("skill-007@3").version == 3
    # The head, and the commit that brought the version.
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("command", "lines"),
    [("list", SKILLS), ("log -n 20", 20), ("log skill-007 -n 20", 1 + COMMITS // SKILLS)],
)
def test_commands_answer_at_once(large, command, lines):
    arguments = [sys.executable, "-m", "skillpack.cli", *command.split(), "--store", str(large.path)]

    def answer():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert len(done.stdout.splitlines()) == 1 + lines
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert paced(answer) < SECONDS
