"""Parts of transfers: trying again, parts of blobs, what a remote may not say, how much is asked."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack_store import CorruptStoreError, RemoteError, Repository, digest_of
from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, canonical_json
from skillpack_store.documents import INDEX, MANIFEST, build_index
from skillpack_store.errors import RefusedError
from skillpack_store.fsck import check_store
from skillpack_store.remotes.memory import MemoryRemote
from skillpack_store.transfer import ls_remote, pull, push, trying
from skillpack_store.transfer.ancestry import follows
from skillpack_store.transfer.arriving import download, read_document
from skillpack_store.transfer.incoming import Incoming
from skillpack_store.transfer.trying import Meter, Tries, in_parallel
from tests.store.remotes.wrapping import Wrapped
from tests.store.skills import WHO, commit_skill, put_skill, verify_everything


def test_waits_grow_and_end(monkeypatch):
    waits = []
    monkeypatch.setattr(trying, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(trying.time, "sleep", waits.append)
    tries = Tries()
    for _ in range(trying.TRIES - 1):
        tries.failed(RemoteError("gone"))
    with pytest.raises(RemoteError, match="gone"):
        tries.failed(RemoteError("gone"))
    assert len(waits) == trying.TRIES - 1
    for wait, longest in zip(waits, (0.2, 0.4, 0.8, 1.6), strict=True):
        assert longest / 2 <= wait <= longest
    for _ in range(100):
        tries.failed(RemoteError("gone"), progressed=True)
    assert max(waits) <= trying.LONGEST_PAUSE


def test_a_refusal_is_not_tried_again():
    calls = []

    def attempt():
        calls.append(1)
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        trying.trying(attempt)
    assert calls == [1]


def test_a_failure_stops_the_others():
    started, meter = [], Meter(trying.silent, "x", 0)
    release = threading.Event()

    def work(number):
        started.append(number)
        if number == 0:
            raise ValueError("first")
        release.wait(0.05)
        meter.advance(1)

    with pytest.raises(ValueError, match="first"):
        in_parallel(work, range(1000), 2, meter)
    assert len(started) < 20


def test_progress_is_told_by_one_thread_at_a_time():
    inside, seen = [], []

    def progress(done, total, what):
        inside.append(1)
        assert len(inside) == 1
        seen.append((done, total, what))
        inside.pop()

    meter = Meter(progress, "sending", 1000)
    in_parallel(lambda _: meter.advance(1), range(1000), 8, meter)
    assert seen[0] == (0, 1000, "sending")
    assert [done for done, _, _ in seen] == list(range(1001))


CONTENT = os.urandom(3000)
BLOB = Descriptor(digest_of(CONTENT), len(CONTENT), "a/layer")


@given(st.lists(st.binary(max_size=4000) | st.integers(0, 3000).map(lambda size: CONTENT[:size]), max_size=4))
def test_whatever_is_left_over_the_blob_arrives(tmp_path_factory, leftovers):
    """Leftovers of any length and content, damaged ones too."""
    folder = tmp_path_factory.mktemp("incoming")
    incoming = Incoming(folder)
    for number, content in enumerate(leftovers):
        (folder / f"{BLOB.digest[7:]}.{number}.part").write_bytes(content)
    remote = Wrapped(MemoryRemote())
    remote.inner.blobs[BLOB.digest] = CONTENT
    done = []
    path = download(remote, BLOB, incoming, done.append)
    assert path.read_bytes() == CONTENT
    assert sum(done) == len(CONTENT)
    fitting = [content for content in leftovers if len(content) <= len(CONTENT)]
    if all(CONTENT.startswith(content) for content in fitting):
        assert remote.got == len(CONTENT) - max(map(len, fitting), default=0)


def test_an_empty_blob(tmp_path):
    empty = Descriptor(digest_of(b""), 0, "a/layer")
    remote = MemoryRemote()
    remote.blobs[empty.digest] = b""
    assert download(remote, empty, Incoming(tmp_path), lambda _: None).read_bytes() == b""


def test_a_remote_without_end(ada, tmp_path):
    class Endless(MemoryRemote):
        def read(self, blob, start=0):
            while True:
                yield bytes(1 << 20)

    for work in (
        lambda: download(Endless(), BLOB, Incoming(tmp_path), lambda _: None),
        lambda: read_document(Endless(), Descriptor(BLOB.digest, DOCUMENT_LIMIT, INDEX)),
    ):
        with pytest.raises(CorruptStoreError, match="more than the announced"):
            work()


def test_a_document_that_is_announced_too_large():
    with pytest.raises(CorruptStoreError, match="more than a document may have"):
        read_document(MemoryRemote(), Descriptor(BLOB.digest, DOCUMENT_LIMIT + 1, MANIFEST))


@pytest.mark.parametrize(
    "refs",
    [{"heads/../../x": BLOB.digest}, {"remotes/origin/main": BLOB.digest}, {"heads/main": "sha256:1"},
     {"x": BLOB.digest}, {"heads/main": None}, {"heads/": BLOB.digest}, {"heads/a/b": BLOB.digest}],
)  # fmt: skip
def test_refs_that_cannot_be(refs, bob):
    remote = MemoryRemote()
    remote._refs = refs
    with pytest.raises(RemoteError, match="has a ref that cannot be"):
        ls_remote(remote)
    with pytest.raises(RemoteError):
        pull(bob, remote, None)


def test_a_branch_that_names_something_else(ada, bob):
    """A skill, an attachment or a text where a commit should be."""
    skill = put_skill(ada, "one")
    commit_skill(ada, "math", "one")
    card = ada.attach(skill, "a/card", [(b"x", "text/plain", "x")])
    remote = MemoryRemote()
    push(ada, remote, None)
    for digest in (skill.digest, card.digest, digest_of(b"{}")):
        remote._refs["heads/main"] = digest
        with pytest.raises(CorruptStoreError, match=digest):
            pull(bob, remote, None)
        assert bob.branches() == {}


def test_attachments_of_others_travel_or_are_passed_over(ada, bob):
    """A signature by another program has a config of its own; a list entry of an unknown kind is left alone."""
    skill = commit_skill(ada, "math", "one").skills["math"]
    remote = MemoryRemote()
    push(ada, remote, None)
    config, layer = b'{"own":1}', b"signature"
    signature = canonical_json({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.other.v1",
        "config": Descriptor(digest_of(config), len(config), "application/vnd.other.config.v1").to_json(),
        "layers": [Descriptor(digest_of(layer), len(layer), "application/octet-stream").to_json()],
        "subject": Descriptor(skill.digest, skill.size, MANIFEST).to_json(),
    })  # fmt: skip
    index = build_index([
        Descriptor(digest_of(signature), len(signature), MANIFEST, "application/vnd.other.v1").to_json(),
        Descriptor(digest_of(b"what"), 4, INDEX).to_json(),
    ])  # fmt: skip
    for content in (config, layer, signature, index):
        remote.blobs[digest_of(content)] = content
    remote.update_ref(f"referrers/{skill.digest.replace(':', '-')}", digest_of(index), expected=None)
    pull(bob, remote, None)
    assert [entry.digest for entry in bob.referrers(skill.digest)] == [digest_of(signature)]
    bob.blobs.verify(digest_of(layer))
    third = MemoryRemote()
    assert push(bob, third, None).attachments == 1
    assert third.blobs[digest_of(config)] == config


def test_an_attachment_of_something_else_is_refused(ada, bob):
    skills = [commit_skill(ada, name, name).skills[name] for name in ("math", "code")]
    ada.attach(skills[0], "a/card", [(b"x", "text/plain", "x")])
    remote = MemoryRemote()
    push(ada, remote, None)
    (ref, digest) = next((ref, digest) for ref, digest in remote.refs().items() if ref.startswith("referrers/"))
    remote.update_ref(ref, None, expected=digest)
    remote.update_ref(f"referrers/{skills[1].digest.replace(':', '-')}", digest, expected=None)
    with pytest.raises(CorruptStoreError, match="not attached to"):
        pull(bob, remote, None)
    assert bob.branches() == {}


def merge(repository, *parents):
    """A commit with several parents."""
    from skillpack_store import Commit

    skills = {name: skill for parent in parents for name, skill in repository.read_commit(parent).skills.items()}
    data = Commit.build(skills, parents=parents, time="2026-01-01T00:00:00Z", message="merge", **WHO)
    digest = repository.blobs.put([data]).digest
    repository.refs.update("heads/main", digest, expected=repository.branches()["main"])
    return digest


def test_merges_travel(ada, bob):
    remote = MemoryRemote()
    first = commit_skill(ada, "math", "one")
    ada.refs.update("heads/side", first.digest, expected=None)
    side = commit_skill(ada, "code", "two", branch="side")
    push(ada, remote, None, branches=None)
    pull(bob, remote, None)
    tip = merge(ada, commit_skill(ada, "math", "three").digest, side.digest)
    push(ada, remote, None)
    assert pull(bob, remote, None).changes[-1].new == tip
    verify_everything(bob)
    assert follows(bob, [tip], side.digest)
    assert follows(bob, [tip], first.digest)
    assert not follows(bob, [side.digest], tip)


def test_a_commit_that_is_there_without_its_parents(ada, bob):
    """As a garbage collection that was interrupted could leave it: no ref names it, so it is not taken to be whole."""
    first = commit_skill(ada, "math", "one")
    second = commit_skill(ada, "code", "two")
    remote = MemoryRemote()
    push(ada, remote, None)
    for digest in (second.digest, second.skills["code"].digest):
        bob.blobs.put(ada.blobs.stream(digest))
    pull(bob, remote, None)
    verify_everything(bob)
    assert bob.read_commit(first.digest)


def test_how_much_is_asked_does_not_grow_with_the_history(ada, bob, monkeypatch):
    """One more commit after forty costs as much as after ten: of the remote, and of documents of the own store."""
    remote = MemoryRemote()
    reads = []
    read = Repository.read_document
    monkeypatch.setattr(Repository, "read_document", lambda *args: reads.append(args[1]) or read(*args))
    asked = []
    for number in range(40):
        commit_skill(ada, f"skill-{number % 5}", f"text {number}")
        sender, receiver = Wrapped(remote), Wrapped(remote)
        reads.clear()
        push(ada, sender, None)
        pull(bob, receiver, "origin")
        asked.append((len(sender.calls), len(receiver.starts), len(reads)))
    assert asked[-1] == asked[10] == asked[20]
    assert asked[-1][1] <= 5


def test_many_blobs(ada, bob):
    remote = MemoryRemote()
    skill = ada.put_skill(b"{}", "a/config", [([b"layer %d" % number], "a/layer") for number in range(300)])
    ada.commit("main", lambda _: {"many": skill}, message="", **WHO)
    assert push(ada, remote, None, jobs=16).blobs == 303
    assert pull(bob, remote, None, jobs=16).blobs == 303
    verify_everything(bob)


def test_a_pull_while_somebody_commits(ada, bob):
    """The own branch moves between fetch and pull: the new commit stays, the pull is refused."""
    from skillpack_store import BusyError

    commit_skill(ada, "math", "one")
    remote = MemoryRemote()
    push(ada, remote, None)

    class Meanwhile(Wrapped):
        def read(self, blob, start=0):
            if "main" not in bob.branches():
                commit_skill(Repository.open(bob.path), "mine", "own")
            return super().read(blob, start)

    with pytest.raises(BusyError, match="Branch main was moved"):
        pull(bob, Meanwhile(remote), None)
    assert set(bob.skills()) == {"mine"}


@pytest.fixture
def torn(ada, bob):
    """A remote with two branches and a tag; Bob has the commit of one of them, and nothing that it refers to.

    A collection leaves that behind where a message mentions a commit, because it follows no mentions.
    """
    commit_skill(ada, "math", "one")
    side = commit_skill(ada, "math", "two", "side")
    ada.tag("v1", side)
    remote = MemoryRemote("memory://torn")
    push(ada, remote, None, branches=None, all_tags=True)
    bob.blobs.put(ada.blobs.stream(side.digest))
    return remote


def test_a_tag_on_a_commit_that_is_there_in_part_comes_whole(ada, bob, torn):
    pull(bob, torn, None)
    assert bob.tags() == ada.tags()
    assert check_store(bob, level="full").errors == []
    verify_everything(bob)


def test_a_push_notes_no_branch_of_which_only_a_part_is_there(bob, torn):
    commit = commit_skill(bob, "code", "three", "mine")
    push(bob, torn, "origin", branches=["mine"])
    tracked = {name: value.digest for name, value in bob.refs.list("remotes").items()}
    assert tracked == {"origin/mine": commit.digest}
    assert check_store(bob, level="full").errors == []
