"""What holds on every kind of remote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from skillpack_store import BusyError, CorruptStoreError, NotFoundError, RemoteError, Repository
from skillpack_store.errors import DivergedError
from skillpack_store.transfer import fetch, ls_remote, pull, pull_skills, push
from tests.store.remotes.wrapping import Changing, Chopping, Wrapped
from tests.store.skills import WHO, commit_skill, put_skill, verify_everything

CARD = "application/vnd.skillpack.card.v1"


def put_large(repository, parts):
    return repository.put_skill(b"{}", "a/config", [([part], "a/layer") for part in parts])


def commit(repository, name, skill):
    return repository.commit("main", lambda skills: {**skills, name: skill}, message=name, **WHO)


def everything(repository):
    """What somebody sees of a library."""
    skills = repository.skills()
    attached = {name: {entry.digest for entry in repository.referrers(skill.digest)} for name, skill in skills.items()}
    return (repository.branches(), repository.tags(), attached)


def nothing_left(repository):
    return not list((repository.path / "incoming").glob("*"))


def test_a_library_arrives_whole(place, ada, bob):
    first = commit_skill(ada, "math", "one")
    ada.tag("v1", first)
    commit_skill(ada, "code", "two")
    commit_skill(ada, "math", "other", branch="side")
    ada.attach(first.skills["math"], CARD, [(b"# Math", "text/markdown", "README.md")])
    sent = push(ada, place.writer(), "origin", branches=None, all_tags=True)
    assert {change.ref for change in sent.changes} == {"heads/main", "heads/side", "tags/v1"}
    assert ls_remote(place.open()).keys() >= {"heads/main", "heads/side", "tags/v1"}
    got = pull(bob, place.open(), "origin", branches=None)
    assert everything(bob) == everything(ada)
    verify_everything(bob)
    assert (got.blobs, got.nbytes, got.attachments) == (sent.blobs, sent.nbytes, 1)
    assert {name: value.digest for name, value in bob.refs.list("remotes").items()} == {
        f"origin/{branch}": digest for branch, digest in ada.branches().items()
    }
    assert nothing_left(bob)


def test_nothing_is_transferred_twice(place, ada, bob):
    commit_skill(ada, "math", "one")
    push(ada, place.writer(), None)
    again = push(ada, place.writer(), None)
    assert (again.changes, again.blobs, again.nbytes) == ((), 0, 0)
    pull(bob, place.open(), None)
    counted = Wrapped(place.open())
    assert pull(bob, counted, None).changes == ()
    assert counted.got == 0


def test_a_second_version_transfers_only_the_difference(place, ada, bob):
    shared = [os.urandom(300_000), os.urandom(300_000)]
    commit(ada, "math", put_large(ada, [*shared, b"old" * 10_000]))
    push(ada, place.writer(), None)
    pull(bob, place.open(), None)
    commit(ada, "math", put_large(ada, [*shared, b"new" * 10_000]))
    writer, reader = Wrapped(place.writer()), Wrapped(place.open())
    sent = push(ada, writer, None)
    assert 30_000 < writer.sent == sent.nbytes < 33_000
    got = pull(bob, reader, None)
    assert 30_000 < reader.got == got.nbytes < 33_000
    verify_everything(bob)


def test_a_dry_run_tells_the_bytes_and_changes_nothing(place, ada, bob):
    commit_skill(ada, "math", "one")
    counted = Wrapped(place.writer())
    plan = push(ada, counted, "origin", dry_run=True)
    assert counted.sent == 0
    assert "update_ref" not in counted.calls
    done = push(ada, place.writer(), "origin")
    assert (plan.blobs, plan.nbytes, plan.changes) == (done.blobs, done.nbytes, done.changes)
    before = sorted(path for path in bob.path.rglob("*"))
    plan = pull(bob, place.open(), "origin", dry_run=True)
    assert sorted(path for path in bob.path.rglob("*")) == before
    done = pull(bob, place.open(), "origin")
    assert (plan.blobs, plan.nbytes, plan.changes) == (done.blobs, done.nbytes, done.changes)


def test_an_empty_remote(place, ada):
    with pytest.raises((NotFoundError, RemoteError), match="There is no library"):
        pull(ada, place.open(), None)
    assert ada.branches() == {}


def test_unknown_names(place, ada, bob):
    commit_skill(ada, "math", "one")
    push(ada, place.writer(), None)
    with pytest.raises(NotFoundError, match="no branch 'mian'") as caught:
        pull(bob, place.open(), None, branches=["mian"])
    assert "main" in caught.value.hint
    with pytest.raises(NotFoundError, match="no branch"):
        push(ada, place.writer(), None, branches=["mian"])
    with pytest.raises(NotFoundError, match="no tag"):
        push(ada, place.writer(), None, tags=["v9"])
    with pytest.raises(NotFoundError, match="no skill 'maht'"):
        pull_skills(bob, place.open(), ["maht"], **WHO)


def test_only_the_skills_asked_for(place, ada, bob):
    big = put_large(ada, [os.urandom(200_000)])
    commit(ada, "big", big)
    commit_skill(ada, "math", "one")
    ada.attach(ada.skills()["math"], CARD, [(b"card", "text/plain", "x")])
    ada.attach(big, CARD, [(b"other card", "text/plain", "x")])
    push(ada, place.writer(), None)
    commit_skill(bob, "mine", "own")
    counted = Wrapped(place.open())
    report = pull_skills(bob, counted, ["math"], **WHO)
    assert counted.got < 10_000
    assert report.skills == ("math",)
    assert bob.skills()["math"] == ada.skills()["math"]
    assert set(bob.skills()) == {"math", "mine"}
    assert bob.head().message == "Pull math"
    assert len(bob.referrers(ada.skills()["math"].digest)) == 1
    assert bob.referrers(big.digest) == []
    verify_everything(bob)
    assert pull_skills(bob, place.open(), ["math"], **WHO).changes == ()
    # What came that way is not fetched again when the whole library is.
    other = Wrapped(place.open())
    fetch(bob, other, "origin")
    assert ada.skill_manifest(ada.skills()["math"].digest).layers[0].digest not in {name for name, _ in other.starts}


def test_who_pushes_second_is_told_and_loses_nothing(writable, ada, bob):
    commit_skill(ada, "math", "one")
    push(ada, writable.open(), "origin")
    pull(bob, writable.open(), "origin")
    theirs = commit_skill(ada, "math", "two")
    mine = commit_skill(bob, "math", "three")
    push(ada, writable.open(), "origin")
    with pytest.raises(DivergedError) as caught:
        push(bob, writable.open(), "origin")
    assert theirs.digest in caught.value.message
    assert mine.digest in caught.value.message
    assert ls_remote(writable.open())["heads/main"] == theirs.digest
    with pytest.raises(DivergedError) as caught:
        pull(bob, writable.open(), "origin")
    assert theirs.digest in caught.value.message
    assert mine.digest in caught.value.message
    assert "skillpack merge" in caught.value.hint
    assert bob.branches() == {"main": mine.digest}
    assert bob.refs.read("remotes/origin/main").digest == theirs.digest
    push(bob, writable.open(), "origin", force=True)
    assert ls_remote(writable.open())["heads/main"] == mine.digest
    assert pull(ada, writable.open(), "origin", force=True).changes[-1].forced
    assert ada.branches() == {"main": mine.digest}


def test_two_pushes_in_the_same_moment(writable, ada, bob):
    """Both have looked at the remote before either moves its branch."""
    if not writable.races:
        pytest.skip("only the whole file can be replaced: see test_two_pushes_into_one_file")
    commit_skill(ada, "math", "one")
    push(ada, writable.open(), None)
    pull(bob, writable.open(), None)
    commit_skill(ada, "math", "two")
    commit_skill(bob, "math", "three")
    both = threading.Barrier(2, timeout=20)

    class Meeting(Wrapped):
        def update_ref(self, ref, digest, *, expected):
            both.wait()
            super().update_ref(ref, digest, expected=expected)

    outcomes = {}

    def work(name, repository):
        try:
            push(repository, Meeting(writable.open()), None)
            outcomes[name] = None
        except BusyError as error:
            outcomes[name] = error

    threads = [threading.Thread(target=work, args=item) for item in (("ada", ada), ("bob", bob))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [name for name, error in outcomes.items() if error is None]
    assert outcomes[{"ada": "bob", "bob": "ada"}[winner]].hint == "Theirs stays. Pull, then push again."
    assert ls_remote(writable.open())["heads/main"] == {"ada": ada, "bob": bob}[winner].branches()["main"]


def test_a_branch_is_not_moved_back(writable, ada, bob):
    old = commit_skill(ada, "math", "one")
    push(ada, writable.open(), None)
    pull(bob, writable.open(), None)
    new = commit_skill(ada, "math", "two")
    push(ada, writable.open(), None)
    with pytest.raises(DivergedError, match="is at") as caught:
        push(bob, writable.open(), None)
    assert new.digest in caught.value.message
    assert old.digest in caught.value.message
    # The remote is behind: there is nothing to pull, and one's own branch stays.
    push(bob, writable.open(), None, force=True)
    assert ls_remote(writable.open())["heads/main"] == old.digest
    assert pull(ada, writable.open(), None).changes == ()
    assert ada.branches()["main"] == new.digest


def test_tags_do_not_move(writable, ada, bob):
    first = commit_skill(ada, "math", "one")
    ada.tag("v1", first)
    push(ada, writable.open(), None, tags=["v1"])
    second = commit_skill(ada, "math", "two")
    pull(bob, writable.open(), None)
    bob.tag("v1", commit_skill(bob, "math", "three"), move=True)
    ada.tag("v1", second, move=True)
    with pytest.raises(DivergedError, match="tag v1") as caught:
        push(ada, writable.open(), None, tags=["v1"])
    assert first.digest in caught.value.message
    assert second.digest in caught.value.message
    assert ls_remote(writable.open()).get("tags/v1") == first.digest
    own = bob.tags()["v1"]
    assert [change.ref for change in fetch(bob, writable.open(), None).kept] == ["tags/v1"]
    with pytest.raises(DivergedError, match="tag v1"):
        fetch(bob, writable.open(), None, all_tags=True)
    assert bob.tags()["v1"] == own
    fetch(bob, writable.open(), None, all_tags=True, force=True)
    assert bob.tags()["v1"] == first.digest


def test_tags_off_the_branches_come_when_asked_for(place, ada, bob):
    commit_skill(ada, "math", "one")
    ada.tag("side", commit_skill(ada, "math", "two", branch="side"))
    push(ada, place.writer(), None, all_tags=True)
    pull(bob, place.open(), None)
    assert bob.tags() == {}
    pull(bob, place.open(), None, all_tags=True)
    assert bob.tags() == ada.tags()
    verify_everything(bob)


def test_lists_of_attachments_are_merged(writable, ada, bob):
    skill = commit_skill(ada, "math", "one").skills["math"]
    push(ada, writable.open(), None)
    pull(bob, writable.open(), None)
    one = ada.attach(skill, CARD, [(b"one", "text/plain", "x")])
    two = bob.attach(skill, CARD, [(b"two", "text/plain", "x")])
    ada.attach(one, "a/signature", [(b"signed", "text/plain", "x")])
    assert push(ada, writable.open(), None).attachments == 2
    assert push(bob, writable.open(), None).attachments == 1
    assert push(bob, writable.open(), None).attachments == 0
    pull(ada, writable.open(), None)
    pull(bob, writable.open(), None)
    for repository in (ada, bob):
        assert {entry.digest for entry in repository.referrers(skill.digest)} == {one.digest, two.digest}
        assert len(repository.referrers(one.digest)) == 1
        verify_everything(repository)


def test_a_damaged_blob_at_rest_is_named_and_refused(place, ada, tmp_path):
    first = commit_skill(ada, "math", "one")
    push(ada, place.writer(), None)
    layer = ada.skill_manifest(first.skills["math"].digest).layers[0]
    for digest, size in ((layer.digest, layer.size), (first.digest, 10_000), (first.skills["math"].digest, 10_000)):
        good = ada.blobs.read(digest, limit=size)
        place.replace(digest, bytes([good[0] ^ 1]) + good[1:])
        bob = Repository.create(tmp_path / digest)
        with pytest.raises((CorruptStoreError, RemoteError)) as caught:
            pull(bob, place.open(), None)
        assert digest in caught.value.message or (place.checks_itself and "answered with 500" in caught.value.message)
        assert bob.branches() == {}
        assert [found for found in bob.blobs if found == digest] == []
        place.replace(digest, good)
        pull(bob, place.open(), None)
        verify_everything(bob)


@pytest.mark.parametrize("silent", [False, True], ids=["broken", "truncated"])
def test_answers_that_break_off_are_gone_on_with(silent, place, ada, bob):
    commit(ada, "math", put_large(ada, [os.urandom(5_000)]))
    push(ada, place.writer(), None)
    cut = Chopping(place.open(), 1_000, silent=silent)
    layer = ada.skill_manifest(ada.skills()["math"].digest).layers[0]
    pull(bob, cut, None, jobs=1)
    assert [start for digest, start in cut.starts if digest == layer.digest] == [0, 1000, 2000, 3000, 4000]
    verify_everything(bob)


def test_a_connection_that_stays_broken(place, ada, bob):
    commit(ada, "math", put_large(ada, [os.urandom(5_000)]))
    push(ada, place.writer(), None)

    class Broken(Wrapped):
        def read(self, blob, start=0):
            if start >= 2_000:
                raise RemoteError("no route to host")
            yield b"".join(self.inner.read(blob, start))[: 2_000 if blob.size == 5_000 else None]

    with pytest.raises(RemoteError, match="no route"):
        pull(bob, Broken(place.open()), None)
    assert bob.branches() == {}
    counted = Wrapped(place.open())
    pull(bob, counted, None)
    assert (ada.skill_manifest(ada.skills()["math"].digest).layers[0].digest, 2_000) in counted.starts
    assert nothing_left(bob)
    verify_everything(bob)


@pytest.mark.parametrize(
    "change",
    [lambda data: data + b"x", lambda data: b"x" + data[1:], lambda data: data[:-1] + b"\0", lambda data: b"",
     lambda data: data * 3],
    ids=["longer", "first byte", "last byte", "empty", "three times"],
)  # fmt: skip
def test_wrong_answers_are_refused(change, place, ada, tmp_path):
    first = commit_skill(ada, "math", "one")
    ada.attach(first.skills["math"], CARD, [(b"card", "text/plain", "x")])
    push(ada, place.writer(), None)
    reached = {digest for digest in ada.blobs if digest not in ls_remote(place.open()).values()}
    for digest in [*reached, first.digest]:
        bob = Repository.create(tmp_path / digest)
        with pytest.raises((CorruptStoreError, RemoteError)) as caught:
            pull(bob, Changing(place.open(), change, digest), None)
        assert digest in caught.value.message
        assert bob.branches() == {}
        for found in bob.blobs:
            bob.blobs.verify(found)
        pull(bob, place.open(), None)
        verify_everything(bob)


KILLED = """
import sys
from skillpack_store import Repository
from skillpack_store.remotes.opening import open_remote
from skillpack_store.transfer import pull, push
from tests.store.remotes.wrapping import Dying
number, action, store, url = sys.argv[1:]
remote = Dying(open_remote(url), int(number), kill=True)
{"push": push, "pull": pull}[action](Repository.open(store), remote, "origin", jobs=1)
"""


def killed(number, action, store, url):
    """Run in a process that is killed at the n-th step; returns whether it was."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(number), action, str(store), url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, -9}, done.stderr
    return done.returncode == -9


@pytest.mark.parametrize("number", [4, 9])
def test_a_kill_in_the_middle_of_a_push(number, writable, ada, bob):
    if writable.name == "memory":
        pytest.skip("the memory is gone with the process")
    commit_skill(ada, "math", "one")
    push(ada, writable.open(), None)
    old = ls_remote(writable.open())
    commit_skill(ada, "code", "two")
    assert killed(number, "push", ada.path, writable.url())
    assert ls_remote(writable.open()) == old
    pull(bob, writable.open(), None)
    verify_everything(bob)
    push(ada, writable.open(), None)
    pull(bob, writable.open(), None)
    assert bob.branches() == ada.branches()
    verify_everything(bob)


@pytest.mark.parametrize("number", [3, 7])
def test_a_kill_in_the_middle_of_a_pull(number, place, ada, bob):
    if place.name == "memory":
        pytest.skip("another process has another memory")
    commit_skill(ada, "math", "one")
    commit_skill(ada, "code", "two")
    push(ada, place.writer(), None)
    assert killed(number, "pull", bob.path, place.url())
    assert bob.branches() == {}
    for digest in bob.blobs:
        bob.blobs.verify(digest)
    counted = Wrapped(place.open())
    pull(bob, counted, None)
    assert bob.branches() == ada.branches()
    verify_everything(bob)
    assert nothing_left(bob)


def test_a_damaged_own_store_is_not_pushed(writable, ada):
    skill = put_skill(ada, "one")
    commit(ada, "math", skill)
    layer = ada.skill_manifest(skill.digest).layers[0]
    path = ada.blobs.path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * layer.size)
    with pytest.raises(CorruptStoreError, match=layer.digest):
        push(ada, writable.open(), None)
    assert ls_remote(writable.open()) == {}
    assert layer.digest not in writable.open().sizes([layer])


def test_a_pushed_folder_is_a_store(ada, tmp_path):
    from skillpack_store.remotes.folder import FolderRemote

    commit_skill(ada, "math", "one")
    push(ada, FolderRemote(tmp_path / "stick"), None)
    verify_everything(Repository.open(tmp_path / "stick"))
    assert Repository.open(tmp_path / "stick").branches() == ada.branches()
    shutil.rmtree(tmp_path / "stick")
    assert not Path(tmp_path / "stick").exists()
