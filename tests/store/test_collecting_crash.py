"""A collection that dies at any point leaves a store in which everything that refs name is there."""

from __future__ import annotations

import os
import time

import pytest

from skillpack_store import Repository
from skillpack_store.collecting import DAY, collect_garbage, undo_collection
from skillpack_store.fsck import check_store
from tests import crash
from tests.store.skills import WHO, commit_skill, put_skill, verify_everything
from tests.store.test_collecting import CARD, age, age_log

NOW = {"grace": 0.0, "trash_grace": 0.0}


@pytest.fixture
def library(repository):
    """A branch with a card, an old entry in its log that expires, a dead skill with a card, and garbage."""
    commit = commit_skill(repository, "math", "one")
    repository.attach(commit.skills["math"], CARD, [(b"card", "text/plain", "card")])
    side = commit_skill(repository, "gone", "two", branch="side")
    repository.attach(side.skills["gone"], CARD, [(b"gone", "text/plain", "gone")])
    repository.refs.delete("heads/side", expected=side.digest)
    age_log(repository, "heads/side", 100)
    put_skill(repository, "garbage")
    age(repository, 15)
    return repository


def usable(folder):
    found = Repository.open(folder)
    before = found.skills()
    assert list(before) == ["math"]
    assert not check_store(found, level="full").errors
    verify_everything(found)
    commit_skill(found, "next", "garbage")
    collect_garbage(found, grace=DAY, trash_grace=0)
    verify_everything(found)
    report = check_store(found, level="full")
    assert not report.errors
    assert set(found.skills()) == {"math", "next"}
    assert not list(found.path.rglob("trash/*"))


ACTIONS = {
    "both phases at once": lambda repository: collect_garbage(repository, **NOW),
    "to the trash": collect_garbage,
    "from the trash": lambda repository: collect_garbage(repository, trash_grace=0),
    "undo": undo_collection,
    "prune": lambda repository: collect_garbage(repository, grace=99 * DAY, expiry=0),
    "a blob taken back": lambda repository: put_skill(repository, "garbage"),
    "a commit takes it back": lambda repository: commit_skill(repository, "next", "garbage"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_crash_in_a_collection_loses_nothing_that_is_in_use(library, action):
    if action in {"from the trash", "undo", "a blob taken back", "a commit takes it back"}:
        assert collect_garbage(library).in_trash.number > 5
    with crash.record(library.path) as recording:
        ACTIONS[action](library)
    assert len(recording) > 4

    def check(folder):
        for path in (folder / "blobs" / "sha256").iterdir():
            then = time.time() - 15 * DAY
            os.utime(path, (then, then))
        if "next" in Repository.open(folder).skills():
            verify_everything(Repository.open(folder))
        else:
            usable(folder)

    assert crash.check_every_crash(recording, check) > 3


def test_a_crash_in_an_undo_can_be_undone_again(library):
    before = set(library.blobs)
    collect_garbage(library)
    with crash.record(library.path) as recording:
        undo_collection(library)

    def check(folder):
        found = Repository.open(folder)
        undo_collection(found)
        assert set(found.blobs) == before
        for digest in before:
            found.blobs.verify(digest)

    crash.check_every_crash(recording, check)


KILLED = """
import sys
from skillpack_store import Repository
from skillpack_store.collecting import collect_garbage
collect_garbage(Repository.open(sys.argv[1]), grace=0, trash_grace=0)
"""


def test_a_killed_collection(library, tmp_path):
    import shutil

    number, killed = 1, True
    while killed:
        path = tmp_path / "copies" / str(number)
        shutil.copytree(library.path, path)
        killed = crash.run_until_killed(number, KILLED, str(path))
        usable(path)
        number += 7
    assert number > 30


def test_a_store_that_was_used_between_the_phases(library):
    """What the first phase took and somebody needs again is not deleted by the second."""
    with crash.record(library.path) as recording:
        collect_garbage(library)
    states = range(0, len(recording), 5)
    for count in states:
        folder = library.path.parent / f"after-{count}"
        crash.rebuild(recording, count, "lost", folder)
        found = Repository.open(folder)
        skill = put_skill(found, "garbage")
        found.commit("main", lambda skills, skill=skill: {**skills, "g": skill}, message="", **WHO)
        collect_garbage(found, **NOW)
        verify_everything(found)


def test_a_crash_on_the_way_to_the_trash_can_be_undone(library):
    """At every moment a blob is in one of the two folders, durably."""
    before = set(library.blobs)
    with crash.record(library.path) as recording:
        collect_garbage(library)

    def check(folder):
        found = Repository.open(folder)
        undo_collection(found)
        assert set(found.blobs) == before

    crash.check_every_crash(recording, check)


def test_what_came_back_from_the_trash_is_there_after_a_power_loss(library):
    before = set(library.blobs)
    collect_garbage(library)
    gone = before - set(library.blobs)
    assert gone
    with crash.record(library.path) as recording:
        for digest in gone:
            assert library.trash.restore(digest)
    folder = library.path.parent / "after"
    crash.rebuild(recording, len(recording), "lost", folder)
    assert set(Repository.open(folder).blobs) == before
