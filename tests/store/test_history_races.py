"""Real processes that merge, commit, tag and revert at once, with and without locks that work."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from skillpack_store import Repository, create_branch, sorted_records
from tests.store.skills import commit_skill, verify_everything

TURNS = 6

START = """
import fcntl, sys
path, number, turns, patched = sys.argv[1], *map(int, sys.argv[2:5])
if patched:
    fcntl.flock = fcntl.lockf = lambda *arguments: None
from skillpack_store import (
    MergeConflictError, NotFoundError, Repository, Resolution, create_branch, delete_ref, merge_revision, revert_commit,
    tag_revision, undelete_ref,
)
who = {"author": "A", "tools": {}}
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
repository = Repository.open(path)
def commit(branch, name, text):
    skill = repository.put_skill(b"{}", "a/config", [([text.encode()], "a/layer")])
    repository.commit(branch, lambda skills: {**skills, name: skill}, message=f"{name} {text}", **who)
for turn in range(turns):
"""

MERGING = """
    commit("try", f"merged-{number}-{turn}", "x")
    merge_revision(repository, "main", "try", message=f"merge {number} {turn}", **who)
"""

COMMITTING = """
    commit("main", f"own-{number}-{turn}", "x")
    commit("main", "disputed", f"{number} {turn}")
"""

UNDOING = """
    commit("main", f"undone-{number}", f"{turn}")
    commit("main", f"undone-{number}", f"{turn} again")
    digest = next(c.digest for c in repository.history("main") if c.message == f"undone-{number} {turn} again")
    revert_commit(repository, digest, message=f"revert {number} {turn}", **who)
    tag_revision(repository, f"tag-{number}-{turn}", "main", move=False)
    create_branch(repository, f"branch-{number}", digest)
    delete_ref(repository, f"heads/branch-{number}")
"""


def run(path, patched, *bodies):
    workers = []
    for number, body in enumerate(bodies):
        command = [sys.executable, "-W", "error", "-c", START + body, str(path), str(number), str(TURNS), str(patched)]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for worker in workers:
        assert worker.stdout.readline() == b"ready\n"
    for worker in workers:
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0] * len(workers)


@pytest.mark.parametrize("patched", [0, 1], ids=["plain", "locks that lock nothing"])
def test_no_commit_is_lost(repository, patched):
    commit_skill(repository, "math", "one")
    create_branch(repository, "try", "main")
    run(repository.path, patched, MERGING, MERGING, COMMITTING, UNDOING)

    found = Repository.open(repository.path)
    turns = range(TURNS)
    merged = {f"merged-{number}-{turn}" for number in (0, 1) for turn in turns}
    own = {f"own-2-{turn}" for turn in turns}
    assert set(found.skills()) == {"math", "disputed", "undone-3"} | merged | own
    history = list(sorted_records(found, found.branches()["main"]))
    messages = [record.message for record in history]
    for number in (0, 1):
        for turn in turns:
            assert messages.count(f"merged-{number}-{turn} x") == 1
    for turn in turns:
        assert messages.count(f"own-2-{turn} x") == messages.count(f"disputed 2 {turn}") == 1
        assert messages.count(f"revert 3 {turn}") == 1
    # Each revert brought back what was there before the commit that it undid.
    assert found.resolve("undone-3").descriptor == found.resolve(f"undone-3@{2 * TURNS - 1}").descriptor
    assert found.tags().keys() == {f"tag-3-{turn}" for turn in turns}
    assert found.branches().keys() == {"main", "try"}
    assert len(found.refs.log("heads/branch-3")) == 2 * TURNS
    # Every entry of the log is in the history of the next: nobody overwrote anybody.
    log = [value.digest for value in found.refs.log("heads/main")]
    places = {record.digest: place for place, record in enumerate(history)}
    assert len(set(log)) == len(log)
    assert all(digest in places for digest in log)
    for newer, older in itertools.pairwise(log):
        assert older in found.graph.ancestors(newer)
    verify_everything(found)
    assert not list(repository.path.rglob("*.tmp"))


def test_records_of_others_do_not_get_in_the_way(repository):
    """One process gathers the records while others add theirs."""
    commit_skill(repository, "math", "one")
    create_branch(repository, "try", "main")
    reading = """
    import skillpack_store.commit_graph as graph
    graph._GATHER = 1
    fresh = Repository.open(path)
    assert fresh.resolve("math").version == 1
    fresh.graph.settle()
"""
    run(repository.path, 0, COMMITTING, reading, reading)
    kept = Repository.open(repository.path)
    head = kept.branches()["main"]
    records = kept.graph.ancestors(head)
    kept.graph.forget()
    assert Repository.open(repository.path).graph.ancestors(head) == records
