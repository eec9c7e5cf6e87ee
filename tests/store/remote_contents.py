"""A library pushed to, and pulled from, a remote by the protocol alone, in the order that the protocol asks for."""

from __future__ import annotations

import random

from skillpack_store import Descriptor, Repository, digest_of
from skillpack_store.descriptors import DOCUMENT_LIMIT
from skillpack_store.documents import EMPTY, INDEX, Attachment, Commit, SkillManifest, parse_index
from tests.store.skills import LAYER_TYPE, commit_skill


def library_blobs(repository):
    """Every blob of a library, each after all that it refers to; for lists of attachments too."""
    done = {}

    def add(*blobs):
        for blob in blobs:
            done.setdefault(blob.digest, blob)

    def commit_of(digest):
        if digest in done:
            return
        commit = repository.read_commit(digest)
        for parent in commit.parents:
            commit_of(parent)
        for skill in commit.skills.values():
            manifest = repository.skill_manifest(skill.digest)
            add(*manifest.layers, manifest.config, skill)
        add(Descriptor(digest, repository.blobs.size(digest), INDEX))

    for digest in [*repository.branches().values(), *repository.tags().values()]:
        commit_of(digest)
    for value in repository.refs.list("referrers").values():
        for entry in repository.read_document(value.digest, parse_index):
            add(*repository.attachment(entry.digest).files, EMPTY, entry)
        add(Descriptor(value.digest, repository.blobs.size(value.digest), INDEX))
    return list(done.values())


def local_refs(repository):
    return {
        f"{kind}/{name}": value.digest
        for kind in ("heads", "tags", "referrers")
        for name, value in repository.refs.list(kind).items()
    }


def push(repository, remote):
    """Write what the remote does not have, then move its refs; return the digests that were written."""
    blobs = library_blobs(repository)
    there = remote.sizes(blobs)
    written = [blob for blob in blobs if blob.digest not in there]
    for blob in written:
        remote.write(blob, lambda blob=blob: repository.blobs.stream(blob.digest))
    refs = remote.refs()
    for ref, digest in sorted(local_refs(repository).items()):
        if refs.get(ref) != digest:
            remote.update_ref(ref, digest, expected=refs.get(ref))
    return [blob.digest for blob in written]


def pull(remote, repository: Repository):
    """Take everything over that refs of the remote name."""
    for ref, digest in remote.refs().items():
        if ref.startswith("referrers/"):
            for entry in _document(remote, repository, digest, parse_index):
                attachment = _document(remote, repository, entry.digest, Attachment.parse, entry)
                _take(remote, repository, *attachment.files, EMPTY)
        else:
            _pull_commit(remote, repository, digest)
        repository.refs.update(ref, digest, expected=None)


def _pull_commit(remote, repository, digest):
    commit = _document(remote, repository, digest, Commit.parse)
    for parent in commit.parents:
        _pull_commit(remote, repository, parent)
    for skill in commit.skills.values():
        manifest = _document(remote, repository, skill.digest, SkillManifest.parse, skill)
        _take(remote, repository, *manifest.layers, manifest.config)


def _document(remote, repository, digest, parse, blob=None):
    _take(remote, repository, blob or Descriptor(digest, DOCUMENT_LIMIT, INDEX))
    return repository.read_document(digest, parse)


def _take(remote, repository, *blobs):
    for blob in blobs:
        repository.blobs.put(remote.read(blob), expect=blob.digest)


def blob_of(data, media_type=LAYER_TYPE):
    return Descriptor(digest_of(data), len(data), media_type)


def parts(data, size=100_000):
    return lambda: (data[start : start + size] for start in range(0, len(data), size))


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def send(remote, data, media_type=LAYER_TYPE):
    blob = blob_of(data, media_type)
    remote.write(blob, parts(data))
    return blob


def fill(repository):
    """Two branches, two tags and a card."""
    first = commit_skill(repository, "math", "one")
    repository.tag("v1", first)
    repository.tag("main", first)
    commit_skill(repository, "math", "two")
    commit_skill(repository, "code", "three", branch="draft")
    card = [(b"# Math", "text/markdown", "README.md")]
    repository.attach(repository.skills()["math"], "application/vnd.skillpack.card.v1", card)
    return repository
