"""``index.json``: what other tools see of a store.

It is derived from the refs and never read to find our own objects, so a stale, missing or damaged one loses nothing
and the next write repairs it. Entries that another tool added carry no mark of ours and are kept.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any

from skillpack_store import disk
from skillpack_store.descriptors import Descriptor, canonical_json, parse_json
from skillpack_store.documents import COMMIT_TYPE, INDEX
from skillpack_store.errors import CorruptStoreError, StoreError
from skillpack_store.reading import read_small
from skillpack_store.refs import SHARED_KINDS, check_ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from skillpack_store.repository import Repository

__all__ = [
    "INDEX_LIMIT",
    "REF_NAME",
    "foreign_entries",
    "index_bytes",
    "merge_index",
    "read_index",
    "ref_entries",
    "refresh_index",
]

REF_NAME = "org.opencontainers.image.ref.name"
_OURS = "org.skillpack.ref"
INDEX_LIMIT = 64 << 20  # bytes


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
            _write(path, _entries(repository))
            # Whoever writes last looks again after writing, so the last version is never older than the refs.
            if repository.refs.newest_numbers() == numbers:
                return


def ref_entries(refs: Mapping[str, str], size_of: Callable[[str], int | None]) -> list[dict[str, Any]]:
    """Return the entries that show refs in an ``index.json``.

    Args:
        refs: ``heads/<branch>``, ``tags/<tag>`` or ``referrers/sha256-<hex>`` -> digest.
        size_of: Digest -> size in bytes; a ref whose blob has none (None) is left out.
    """
    entries = []
    for ref, digest in sorted(refs.items()):
        kind, _, name = ref.partition("/")
        shown = ref if kind == "heads" and f"tags/{name}" in refs else name
        size = size_of(digest)
        if size is not None:
            artifact_type = "" if kind == "referrers" else COMMIT_TYPE
            entries.append(Descriptor(digest, size, INDEX, artifact_type, {REF_NAME: shown, _OURS: ref}).to_json())
    return entries


def merge_index(old: bytes, entries: Iterable[Mapping[str, Any]]) -> bytes:
    """Return an ``index.json`` with these entries for ours and with what others put into ``old``."""
    return _merged(_parse(old), entries)


def read_index(data: bytes) -> dict[str, Descriptor]:
    """Return the refs that an ``index.json`` shows, ``heads/<branch>`` and so on.

    Raises:
        ValueError: It is not an index, or one of our entries in it is malformed.
    """
    document = parse_json(data, limit=INDEX_LIMIT)
    if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
        raise ValueError("it is not an image index")  # noqa: TRY004  a document's value, not a caller's
    shown = {}
    for entry in filter(_is_ours, document["manifests"]):
        blob = Descriptor.from_json(entry)
        kind, _, name = blob.annotations[_OURS].partition("/")
        if kind not in SHARED_KINDS:
            raise ValueError(f"{blob.annotations[_OURS][:120]!r} is not a ref")
        shown[f"{kind}/{check_ref(name)}"] = blob
    return shown


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
    return _merged(document, _entries(repository)), listed


def _entries(repository: Repository) -> list[dict[str, Any]]:
    refs = {
        f"{kind}/{name}": value.digest
        for kind in SHARED_KINDS
        for name, value in repository.refs.list(kind).items()
        if value.digest is not None
    }
    return ref_entries(refs, repository.blobs.peek)


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    try:
        old = read_small(path, INDEX_LIMIT)
    except OSError as error:
        # What is not a plain file is replaced like a damaged one.
        if error.errno not in {errno.ENOENT, errno.ELOOP, errno.EINVAL}:
            raise
        old = b""
    new = merge_index(old, entries)
    if new != old:
        disk.replace(path, [new])


def _merged(document: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> bytes:
    foreign = [entry for entry in document.get("manifests", []) if not _is_ours(entry)]
    return canonical_json({**document, "schemaVersion": 2, "mediaType": INDEX, "manifests": [*entries, *foreign]})


def _read(path: Path) -> dict[str, Any]:
    return _parse(read_small(path, INDEX_LIMIT), strict=True)


def _parse(data: bytes, *, strict: bool = False) -> dict[str, Any]:
    try:
        document = parse_json(data, limit=INDEX_LIMIT)
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
