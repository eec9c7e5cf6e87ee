"""What ``protocol.py`` says, on every remote of ``remote_factories``."""

from __future__ import annotations

import threading

import pytest
from huggingface_hub import constants

from skillpack_store import BusyError, Descriptor, NotFoundError, Repository, digest_of
from skillpack_store.documents import INDEX
from skillpack_store.remotes.protocol import WritableRemote
from tests.store.remote_contents import blob_of, library_blobs, local_refs, noise, pull, push, send
from tests.store.remote_factories import FACTORIES
from tests.store.skills import commit_skill, verify_everything

# httpx's advice to huggingface_hub.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture(params=FACTORIES)
def connect(request, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with FACTORIES[request.param](tmp_path / "server") as connect:
        yield connect


def test_it_is_a_remote_and_empty(connect, library):
    remote = connect()
    assert isinstance(remote, WritableRemote)
    assert "@" not in remote.url
    assert remote.refs() == {}
    assert remote.sizes(library_blobs(library)) == {}
    assert remote.sizes([]) == {}


def test_a_library_that_grows(connect, library, tmp_path):
    push(library, connect())
    commit_skill(library, "code", "four")
    library.refs.delete("tags/v1", expected=library.tags()["v1"])
    written = push(library, connect())
    # The new skill's manifest, config and first layer, and the commit; the second layer is there.
    assert len(written) == 4
    remote = connect()
    assert {**local_refs(library), "tags/v1": remote.refs()["tags/v1"]} == remote.refs()
    other = Repository.create(tmp_path / "other")
    pull(remote, other)
    assert local_refs(other) == dict(remote.refs())
    verify_everything(other)


def test_reading(connect, repository):
    remote = connect()
    blobs = {start: send(remote, noise(200_000, start)) for start in range(3)}
    empty = send(remote, b"")
    commit = commit_skill(repository, "math", "one")
    push(repository, remote)
    again = connect()
    for seed, blob in blobs.items():
        for start in (0, 1, 99_999, 199_999, 200_000):
            assert b"".join(again.read(blob, start)) == noise(200_000, seed)[start:]
    assert b"".join(again.read(empty)) == b""
    document = Descriptor(commit.digest, repository.blobs.size(commit.digest), INDEX)
    assert digest_of(b"".join(again.read(document))) == commit.digest
    # The size of what a ref names is not known before it is read.
    assert digest_of(b"".join(again.read(Descriptor(commit.digest, 4 << 20, INDEX)))) == commit.digest
    assert digest_of(b"".join(again.read(Descriptor(commit.digest, 0, INDEX)))) == commit.digest
    for media_type in (INDEX, "a/b"):
        with pytest.raises(NotFoundError):
            list(again.read(blob_of(b"nothing", media_type)))


def test_refs(connect, library):
    remote = connect()
    push(library, remote)
    head, first = library.head().digest, library.tags()["v1"]
    for ref, digest, expected in (
        ("heads/main", first, None),
        ("heads/main", first, first),
        ("heads/new", first, head),
        ("tags/v1", None, head),
        ("tags/new", None, head),
    ):
        with pytest.raises(BusyError):
            remote.update_ref(ref, digest, expected=expected)
    assert connect().refs() == local_refs(library)
    remote.update_ref("heads/main", first, expected=head)
    remote.update_ref("tags/main", None, expected=first)
    remote.update_ref("tags/v1", head, expected=first)
    found = connect().refs()
    assert (found["heads/main"], found["tags/v1"]) == (first, head)
    assert "tags/main" not in found
    # One and the same name for a branch and a tag, made again after it was deleted.
    remote.update_ref("tags/main", head, expected=None)
    found = connect().refs()
    assert (found["heads/main"], found["tags/main"]) == (first, head)


def test_writing_what_is_there_is_no_error(connect, library):
    remote = connect()
    push(library, remote)
    for blob in library_blobs(library):
        connect().write(blob, lambda blob=blob: library.blobs.stream(blob.digest))
    assert connect().refs() == local_refs(library)


def test_many_threads_use_one_remote(connect, repository):
    remote = connect()
    commit_skill(repository, "math", "one")
    push(repository, remote)
    problems = []

    def work(number):
        try:
            for turn in range(3):
                blob = send(remote, noise(50_000, 100 * number + turn))
                assert remote.sizes([blob]) == {blob.digest: 50_000}
        except Exception as error:  # noqa: BLE001  shown below
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    remote.update_ref("tags/v1", repository.head().digest, expected=None)
    wanted = [blob_of(noise(50_000, 100 * number + turn)) for number in range(8) for turn in range(3)]
    assert connect().sizes(wanted) == {blob.digest: 50_000 for blob in wanted}
