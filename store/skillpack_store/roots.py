"""Where a garbage collection starts: everything in a store that names a blob from outside the blobs."""

from __future__ import annotations

import stat
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from skillpack_store.descriptors import DOCUMENT_LIMIT, digest_of, parse_digest
from skillpack_store.documents import rfc3339
from skillpack_store.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.referrers import tagged_subject
from skillpack_store.refs import SHARED_KINDS
from skillpack_store.view import foreign_entries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from skillpack_store.repository import Repository

__all__ = ["Roots", "expired_entries", "find_roots", "read_anywhere", "require_roots", "subject_of"]


class Roots(NamedTuple):
    """What a collection starts from.

    Attributes:
        named: Digest and what names it, for messages.
        attached: Digest of a subject -> lists of what is and was attached to it. They are in use as long as the
            subject is: a model card does not keep a skill that nothing else names.
        foreign: Digests of what another tool added to ``index.json``; documents of any kind, or none.
    """

    named: list[tuple[str, str]]
    attached: dict[str, set[str]]
    foreign: list[str]


def find_roots(repository: Repository, expired: Mapping[str, list[int]]) -> Roots:
    """Return the roots of a store.

    Args:
        repository: The store.
        expired: Ref -> numbers of entries that are about to be pruned and do not count.

    Raises:
        CorruptStoreError: A ref entry or ``index.json`` cannot be read.
    """
    named: dict[str, str] = {}
    attached: dict[str, set[str]] = {}
    for ref in repository.refs.all_names():
        past = expired.get(ref, ())
        entries = [entry for entry in repository.refs.log(ref) if entry.number not in past]
        digests = {entry.digest: f"refs/{ref}/{entry.number}" for entry in entries if entry.digest is not None}
        subject = subject_of(ref)
        if subject is not None:
            attached[subject] = set(digests)
        elif not ref.startswith("referrers/"):
            named.update(digests)
    return Roots(list(named.items()), attached, [_foreign_digest(entry) for entry in foreign_entries(repository)])


def require_roots(repository: Repository, roots: Roots) -> None:
    """Refuse a store in which nothing at all would be kept, as one that was copied in part.

    Raises:
        CorruptStoreError: A folder of refs is missing.
        StoreError: No ref ever named anything.
    """
    for kind in SHARED_KINDS:
        folder = repository.refs.folder / kind
        if folder.is_symlink() or not folder.is_dir():
            raise CorruptStoreError(
                f"{folder} is missing or not a folder, so it is not known what is in use.",
                hint="Nothing was collected. Restore it from a copy of the store.",
            )
    if not roots.named and not roots.foreign and any(True for _ in repository.blobs):
        raise StoreError(
            f"No branch and no tag in {repository.path} names anything: everything in it would be collected.",
            hint="Nothing was collected. If that is what you want, delete the folder.",
        )


def expired_entries(repository: Repository, now: float, expiry: float) -> dict[str, list[int]]:
    """Return ref -> numbers of its entries that something newer took the place of long ago.

    Args:
        repository: The store.
        now: Seconds since 1970.
        expiry: Seconds.

    Raises:
        CorruptStoreError: An entry cannot be read.
    """
    before = rfc3339(datetime.fromtimestamp(max(0.0, now - expiry), timezone.utc))
    found = {ref: repository.refs.expired(ref, before) for ref in repository.refs.all_names()}
    return {ref: numbers for ref, numbers in found.items() if numbers}


def subject_of(ref: str) -> str | None:
    """Return the digest to which the list that a ref names is attached; None for other refs."""
    kind, _, name = ref.partition("/")
    try:
        return parse_digest(tagged_subject(name)) if kind == "referrers" else None
    except ValueError:
        return None


def read_anywhere(repository: Repository, digest: str, limit: int = DOCUMENT_LIMIT) -> bytes:
    """Return a document, hashed, from the blobs or from the trash, where it is left.

    Raises:
        NotFoundError: It is not there.
        CorruptStoreError: It has another digest, or is too long or not the beginning of a document.
    """
    for path in (repository.blobs.path(digest), repository.trash.find(digest), repository.blobs.path(digest)):
        if path is not None:
            try:
                if not stat.S_ISREG(path.lstat().st_mode):
                    break
                return _read(path, digest, limit)
            except FileNotFoundError:
                continue
    raise NotFoundError(f"Blob {digest} is not in the store ({repository.blobs.folder}).")


def _read(path: Path, digest: str, limit: int) -> bytes:
    with path.open("rb") as file:
        data = file.read(1)
        if data not in {b"{", b" ", b"\n", b"\t", b"\r"}:
            # Not a document, and possibly large.
            raise CorruptStoreError(f"Blob {digest} ({path}) is damaged or not a document.")
        data += file.read(limit)
    if len(data) > limit:
        raise CorruptStoreError(f"Blob {digest} ({path}) is longer than a document may be.")
    if digest_of(data) != digest:
        raise CorruptStoreError(f"Blob {digest} is damaged: the content of {path} has digest {digest_of(data)}.")
    return data


def _foreign_digest(entry: object) -> str:
    try:
        return parse_digest(entry.get("digest") if isinstance(entry, dict) else None)
    except ValueError as error:
        raise CorruptStoreError(
            f"An entry that another program added to index.json cannot be read: {error}.",
            hint="Nothing was collected. Remove the entry from index.json.",
        ) from error
