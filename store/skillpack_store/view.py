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
from skillpack_store.errors import NotFoundError, StoreError
from skillpack_store.reading import read_small
from skillpack_store.refs import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from skillpack_store.repository import Repository

__all__ = ["REF_NAME", "refresh_index"]

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
        refs = _current(repository)
        while True:
            _write(path, _entries(repository, refs))
            # Whoever writes last looks again after writing, so the last version is never older than the refs.
            seen, refs = refs, _current(repository)
            if refs == seen:
                return


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
        with contextlib.suppress(NotFoundError):
            size = repository.blobs.size(digest)
            artifact_type = "" if kind == "referrers" else COMMIT_TYPE
            entries.append(Descriptor(digest, size, INDEX, artifact_type, {REF_NAME: shown, _OURS: ref}).to_json())
    return entries


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    try:
        old = read_small(path, _LIMIT)
    except OSError as error:
        # What is not a plain file is replaced like a damaged one.
        if error.errno not in {errno.ENOENT, errno.ELOOP, errno.EINVAL}:
            raise
        old = b""
    document = _parse(old)
    foreign = [entry for entry in document.get("manifests", []) if not _is_ours(entry)]
    document.update(schemaVersion=2, mediaType=INDEX, manifests=entries + foreign)
    new = canonical_json(document)
    if new != old:
        disk.replace(path, [new])


def _parse(data: bytes) -> dict[str, Any]:
    try:
        document = parse_json(data, limit=_LIMIT)
    except ValueError:
        return {}
    return document if isinstance(document, dict) and isinstance(document.get("manifests"), list) else {}


def _is_ours(entry: Any) -> bool:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return isinstance(annotations, dict) and _OURS in annotations
