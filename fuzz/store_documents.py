"""Fuzzes what the store reads: documents, refs, addresses, archives. ``python fuzz/store_documents.py -runs=20000``.

Each case may refuse its input with the errors that its parser documents and nothing else. What is accepted must mean
the same when it is written and read again, and must name nothing outside the store.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["skillpack_store"]):
    from skillpack_store import (
        Repository,
        StoreError,
        canonical_json,
        digest_of,
        import_archive,
        import_referrers,
        parse_address,
        parse_json,
    )
    from skillpack_store.addresses import check_skill_name
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.documents import Attachment, Commit, SkillManifest, build_index, parse_index
    from skillpack_store.refs import check_ref
    from skillpack_store.tar import member_bytes, read_members, tar_end

sys.path.insert(0, str(Path(__file__).parent))
from harness import run, scratch

FOLDER = scratch()
STORE = FOLDER / "store"
ARCHIVE = FOLDER / "archive.tar"
NAMES = ("oci-layout", "index.json", "./index.json", "blobs/sha256/", "blobs/sha256/" + "0" * 64)


def json(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        value = parse_json(data)
        assert parse_json(canonical_json(value)) == value


def skill(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        manifest = SkillManifest.parse(data)
        again = SkillManifest.parse(SkillManifest.build(manifest.config, manifest.layers))
        assert (again.config, again.layers) == (manifest.config, manifest.layers)


def commit(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = Commit.parse(data)
        for name in found.skills:
            check_skill_name(name)
        again = Commit.build(
            found.skills,
            parents=found.parents,
            author=found.author,
            time=found.time,
            message=found.message,
            tools=found.tools,
        )
        parsed = Commit.parse(again)
        assert (parsed.parents, parsed.message, parsed.tools) == (found.parents, found.message, found.tools)
        assert {name: entry.digest for name, entry in parsed.skills.items()} == {
            name: entry.digest for name, entry in found.skills.items()
        }


def attachment(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = Attachment.parse(data)
        again = Attachment.parse(found.build())
        assert again.subject.digest == found.subject.digest
        assert again.files == found.files


def index(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        entries = parse_index(data)
        assert parse_index(build_index([entry.to_json() for entry in entries])) == entries


def descriptor(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = Descriptor.from_json(parse_json(data))
        assert Descriptor.from_json(found.to_json()) == found


def ref(data: bytes) -> None:
    """An entry of a ref, and a list of them in ``index.json``."""
    folder = STORE / "refs" / "heads" / "main"
    fresh()
    folder.mkdir()
    (folder / "1").write_bytes(data)
    (STORE / "index.json").write_bytes(data)
    try:
        repository = Repository.open(STORE)
        with contextlib.suppress(StoreError):
            value = repository.refs.read("heads/main")
            assert value is None or value.digest is not None
            repository.tag("a", value.digest if value else digest_of(b""))
    finally:
        shutil.rmtree(folder)


def address(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(StoreError):
        found = parse_address(text)
        assert found.name == text.partition("@")[0]
        assert text.isascii()
    with contextlib.suppress(StoreError):
        assert Path(check_ref(text)).name == text


def tar(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        for member in read_members(io.BytesIO(data), len(data)):
            assert 0 <= member.start <= member.start + member.size <= len(data)


def archive(data: bytes) -> None:
    """An archive whose frame is sound: files of fuzzed names and contents that may refer to each other's digests."""
    ARCHIVE.write_bytes(composed(data))
    fresh()
    repository = Repository.open(STORE)
    try:
        with contextlib.suppress(StoreError):
            for name, found in import_archive(repository, ARCHIVE):
                check_skill_name(name)
                repository.skill_manifest(found.digest)
        with contextlib.suppress(StoreError):
            for taken in import_referrers(repository, ARCHIVE):
                subject = repository.attachment(taken.digest).subject
                assert taken in repository.referrers(subject.digest)
    finally:
        assert {entry.name for entry in FOLDER.iterdir()} == {"store", "archive.tar"}
        for digest in repository.blobs:
            repository.blobs.verify(digest)


def composed(data: bytes) -> bytes:
    r"""A tar file of what ``data`` lists.

    Each file is one byte for its name, two for its length and so many bytes of content, in which ``@3`` stands for the
    digest of the third file before (hexadecimal) and ``#3`` for its size. An odd name byte keeps the content as it is.
    """
    pieces, before = [], []
    while len(data) >= 3 and len(before) < 20:
        kind, length = data[0], int.from_bytes(data[1:3], "little")
        content, data = data[3 : 3 + length], data[3 + length :]
        if kind < 128:
            for number, earlier in enumerate(reversed(before[-9:]), 1):
                digest, size = digest_of(earlier).removeprefix("sha256:"), len(earlier)
                content = content.replace(b"@%d" % number, digest.encode()).replace(b"#%d" % number, b"%d" % size)
        name = NAMES[kind % len(NAMES)]
        if name.endswith("/"):
            name += digest_of(content).removeprefix("sha256:")
        before.append(content)
        pieces += member_bytes(name, len(content), [content])
    return b"".join([*pieces, tar_end()])


def fresh() -> None:
    """Start from an empty store unless nothing was put into the last one."""
    blobs = STORE / "blobs" / "sha256"
    if not blobs.is_dir() or any(blobs.iterdir()) or any((STORE / "refs" / "tags").iterdir()):
        shutil.rmtree(STORE, ignore_errors=True)
        Repository.create(STORE)


CASES = {
    case.__name__: case for case in (json, skill, commit, attachment, index, descriptor, ref, address, tar, archive)
}

if __name__ == "__main__":
    run(CASES)
