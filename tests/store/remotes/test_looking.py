"""Looking at a skill of a remote: documents only, on every kind of remote."""

from __future__ import annotations

import os

import pytest

from skillpack_store import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.transfer import look_at, look_at_attachment, pull_skills, push
from tests.store.remotes.wrapping import Wrapped
from tests.store.skills import WHO, commit_skill

CARD = "application/vnd.skillpack.card.v1"
LAYERS = [os.urandom(300_000), os.urandom(200_000)]


@pytest.fixture
def shelf(place, ada):
    """A remote with a skill of half a megabyte, its card, and another version under a tag."""
    first = commit_skill(ada, "math", "one")
    ada.tag("v1", first)
    skill = ada.put_skill(b"{config}", "a/config", [([layer], "a/layer") for layer in LAYERS])
    ada.commit("main", lambda skills: {**skills, "math": skill}, message="Large", **WHO)
    ada.attach(skill, CARD, [(b"# Math", "text/markdown", "README.md")])
    push(ada, place.writer(), "origin", branches=None, all_tags=True)
    return skill


def test_no_layer_is_read_and_nothing_is_stored(place, ada, bob, shelf):
    remote = Wrapped(place.open())
    before = sorted(path for path in bob.path.rglob("*"))
    seen = look_at(remote, "math", limit=1000)
    assert (seen.name, seen.descriptor, seen.config) == ("math", shelf, b"{config}")
    assert seen.manifest == ada.skill_manifest(shelf.digest)
    assert seen.commit == ada.head()
    (attachment,) = seen.attachments
    assert look_at_attachment(remote, shelf.digest, attachment, limit=100) == b"# Math"
    assert remote.got < 4000
    assert {layer.digest for layer in seen.manifest.layers}.isdisjoint(digest for digest, _ in remote.starts)
    assert sorted(path for path in bob.path.rglob("*")) == before

    whole = Wrapped(place.open())
    pull_skills(bob, whole, ["math"], **WHO)
    assert whole.got > sum(map(len, LAYERS))


def test_by_tag_and_what_is_not_there(place, ada, shelf):
    remote = place.open()
    assert look_at(remote, "math@v1", limit=1000).descriptor == ada.resolve("math@v1").descriptor
    for address in ("math@1", f"math@{shelf.digest}"):
        with pytest.raises(StoreError, match="history"):
            look_at(remote, address, limit=1000)
    for address, branch, message in (
        ("mth", "main", "no skill"),
        ("math@v2", "main", "no tag"),
        ("math", "x", "branch"),
    ):
        with pytest.raises(NotFoundError, match=message):
            look_at(remote, address, branch=branch, limit=1000)


def test_other_bytes_are_refused(place, ada, shelf):
    config = ada.skill_manifest(shelf.digest).config
    with pytest.raises(CorruptStoreError, match="more than a document may have"):
        look_at(place.open(), "math", limit=3)
    place.replace(config.digest, b"{damage}")
    with pytest.raises(CorruptStoreError):
        look_at(place.open(), "math", limit=1000)
