"""``index.json``: what other tools see of a store.

It is derived from the refs and never read to find our own objects, so a stale, missing or damaged one loses nothing
and the next write repairs it. Entries that another tool added carry no mark of ours and are kept.
"""

from __future__ import annotations

import contextlib
import stat
from typing import TYPE_CHECKING, Any

from skillpack_store import disk
from skillpack_store.descriptors import Descriptor, canonical_json, parse_json
from skillpack_store.documents import COMMIT_TYPE, INDEX
from skillpack_store.errors import CorruptStoreError, StoreError
from skillpack_store.refs import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from skillpack_store.repository import Repository

__all__ = ["REF_NAME", "foreign_entries", "index_bytes", "refresh_index"]

REF_NAME = "org.opencontainers.image.ref.name"
_OURS = "org.skillpack.ref"
_LIMIT = 64 << 20  # bytes


def refresh_index(repository: Repository) -> None:
    """Make ``index.json`` show the refs as they are.

    Nothing is raised: the refs have moved already, and to report their change as failed would be wrong. What cannot
    be read or written here is left for the next write.
    """
    path = repository.path / "index.json"
    with contextlib.suppress(OSError, StoreError):
        while True:
            # Entries of refs never change, so their numbers say whether anything did.
            numbers = repository.refs.newest_numbers()
            _write(path, _entries(repository, _current(repository)))
            # Whoever writes last looks again after writing, so the last version is never older than the refs.
            if repository.refs.newest_numbers() == numbers:
                return


def foreign_entries(repository: Repository) -> list[Any]:
    """Return the entries of ``index.json`` that another tool added; none if there is no such file.

    Raises:
        CorruptStoreError: It cannot be read, so that they are not known.
    """
    path = repository.path / "index.json"
    try:
        document = _read(path)
    except FileNotFoundError:
        return []
    except (ValueError, OSError) as error:
        raise CorruptStoreError(
            f"The file {path} is damaged: {error}.",
            hint="Restore it from a copy of the store. Or move it away, if no other program put anything into this "
            "store: the next change makes it anew from the branches and tags.",
        ) from error
    return [entry for entry in document["manifests"] if not _is_ours(entry)]


def index_bytes(repository: Repository) -> tuple[bytes, dict[str, str]]:
    """Return what ``index.json`` should be, given what it is, and ``kind/name`` -> digest of our entries in it.

    Raises:
        CorruptStoreError: It or a ref cannot be read.
    """
    path = repository.path / "index.json"
    foreign_entries(repository)
    document = _parse(path.read_bytes() if path.exists() else b"")
    listed = {
        str(entry["annotations"][_OURS]): str(entry.get("digest"))
        for entry in document.get("manifests", [])
        if _is_ours(entry)
    }
    return _merged(document, _entries(repository, _current(repository))), listed


def _current(repository: Repository) -> dict[str, str]:
    """Return ``kind/name`` -> digest."""
    return {
        f"{kind}/{name}": value.digest
        for kind in KINDS
        for name, value in repository.refs.list(kind).items()
        if value.digest is not None
    }


def _entries(repository: Repository, refs: dict[str, str]) -> list[dict[str, Any]]:
    entries = []
    for ref, digest in sorted(refs.items()):
        kind, _, name = ref.partition("/")
        shown = ref if kind == "heads" and f"tags/{name}" in refs else name
        size = repository.blobs.peek(digest)
        if size is not None:
            artifact_type = "" if kind == "referrers" else COMMIT_TYPE
            entries.append(Descriptor(digest, size, INDEX, artifact_type, {REF_NAME: shown, _OURS: ref}).to_json())
    return entries


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    try:
        old = path.read_bytes()
    except FileNotFoundError:
        old = b""
    new = _merged(_parse(old), entries)
    if new != old:
        disk.replace(path, [new])


def _merged(document: dict[str, Any], entries: list[dict[str, Any]]) -> bytes:
    foreign = [entry for entry in document.get("manifests", []) if not _is_ours(entry)]
    return canonical_json({**document, "schemaVersion": 2, "mediaType": INDEX, "manifests": entries + foreign})


def _read(path: Path) -> dict[str, Any]:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        return _parse(file.read(_LIMIT + 1), strict=True)


def _parse(data: bytes, *, strict: bool = False) -> dict[str, Any]:
    try:
        document = parse_json(data, limit=_LIMIT)
        if isinstance(document, dict) and isinstance(document.get("manifests"), list):
            return document
    except ValueError:
        if strict:
            raise
        return {}
    if strict:
        raise ValueError("it is not an image index")
    return {}


def _is_ours(entry: Any) -> bool:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return isinstance(annotations, dict) and _OURS in annotations
