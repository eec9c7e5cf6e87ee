"""A crash at any point of what changes the history leaves the old state or the new one, whole."""

from __future__ import annotations

import shutil

import pytest

from skillpack_store import (
    MergeConflictError,
    NotFoundError,
    Repository,
    Resolution,
    create_branch,
    delete_ref,
    merge_revision,
    ref_log,
    restore_state,
    revert_commit,
    sorted_records,
    tag_revision,
    undelete_ref,
    undelete_skill,
)
from tests import crash
from tests.store.skills import WHO, commit_skill, verify_everything


@pytest.fixture
def library(repository):
    """Two branches that conflict about math, one that is ahead, one that was deleted, a tag, and a deleted skill."""
    commit_skill(repository, "math", "one")
    commit_skill(repository, "gone", "gone")
    repository.delete("gone", **WHO)
    create_branch(repository, "try", "main")
    create_branch(repository, "behind", "main~1")
    commit_skill(repository, "math", "two")
    commit_skill(repository, "math", "aside", branch="try")
    commit_skill(repository, "code", "code", branch="try")
    commit_skill(repository, "lost", "lost", branch="lost")
    delete_ref(repository, "heads/lost")
    tag_revision(repository, "v1", "main~1", move=False)
    return repository


def state(repository):
    return [repository.branches(), repository.tags()]


ACTIONS = {
    "merge": lambda r: merge_revision(r, "main", "try", resolution=Resolution("theirs"), **WHO),
    "fast-forward": lambda r: merge_revision(r, "behind", "main", **WHO),
    "revert": lambda r: revert_commit(r, "main", **WHO),
    "restore": lambda r: restore_state(r, "main~3", **WHO),
    "undelete of a skill": lambda r: undelete_skill(r, "gone", **WHO),
    "undelete of a branch": lambda r: undelete_ref(r, "heads/lost"),
    "branch": lambda r: create_branch(r, "new", "try~1"),
    "branch delete": lambda r: delete_ref(r, "heads/try"),
    "tag": lambda r: tag_revision(r, "v2", "try", move=False),
    "tag move": lambda r: tag_revision(r, "v1", "try", move=True),
    "tag delete": lambda r: delete_ref(r, "tags/v1"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_crash_leaves_the_old_state_or_the_new_one(library, action):
    states = [state(library)]
    with crash.record(library.path) as recording:
        ACTIONS[action](library)
    states.append(state(library))
    assert states[0] != states[1]
    reached = set()

    def check(folder):
        found = Repository.open(folder)
        reached.add(states.index(state(found)))
        verify_everything(found)
        for ref in (*found.branches(), *found.tags()):
            assert ref_log(found, ref)
        # Records that were cut short do not count.
        assert found.resolve("math@1").version == 1
        assert len(list(sorted_records(found, found.branches()["main"]))) >= 4
        # What was interrupted can be done again, and so can anything else.
        if reached and state(found) == states[0]:
            ACTIONS[action](found)
            assert [set(kind) for kind in state(found)] == [set(kind) for kind in states[1]]
        commit_skill(found, "next", "after the crash")
        verify_everything(found)

    assert crash.check_every_crash(recording, check) > len(recording) // 4
    assert reached == {0, 1}
    crash.rebuild(recording, len(recording), "lost", library.path.parent / "finished")
    assert state(Repository.open(library.path.parent / "finished")) == states[1]


def test_a_refused_merge_touches_nothing(library):
    before = {path: path.read_bytes() for path in library.path.rglob("*") if path.is_file()}
    with pytest.raises(MergeConflictError):
        merge_revision(library, "main", "try", **WHO)
    assert {path: path.read_bytes() for path in library.path.rglob("*") if path.is_file()} == before


KILLED = """
import sys
from skillpack_store import Repository, Resolution, create_branch, delete_ref
from skillpack_store import merge_revision, revert_commit, tag_revision
repository = Repository.open(sys.argv[1])
who = {"author": "A", "tools": {}}
create_branch(repository, "aside", "main~1")
merge_revision(repository, "main", "try", resolution=Resolution("theirs"), **who)
tag_revision(repository, "v1", "main", move=True)
revert_commit(repository, "main", **who)
delete_ref(repository, "heads/try")
"""


def test_a_killed_process_leaves_a_store_that_works(library, tmp_path):
    before = state(library)
    number, killed, seen = 1, True, []
    while killed:
        path = tmp_path / "copies" / str(number)
        shutil.copytree(library.path, path)
        killed = crash.run_until_killed(number, KILLED, str(path))
        found = Repository.open(path)
        verify_everything(found)
        seen.append(state(found))
        commit_skill(found, "next", "after")
        assert "next" in found.skills()
        shutil.rmtree(path)
        number += 17
    assert seen[0] == before
    assert "try" not in seen[-1][0]
    assert len(seen) > 4
    with pytest.raises(NotFoundError):
        delete_ref(library, "heads/aside")
