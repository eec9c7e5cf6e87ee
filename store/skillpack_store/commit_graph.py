"""What the commits of a store say in short: parents, who, when, why, and which skills each one changed.

A commit's document lists the whole library, so reading two thousand of them takes seconds. The graph keeps a record of
each in ``cache/``: one small file a commit (``cache/recent/<hex>``), gathered into ``cache/history`` by whoever reads
many of them. Records are named by the commit's digest and never change, so nothing in them can be out of date; every
file carries its own digest, and one that does not fit is passed over and computed again from the documents. The whole
folder can be deleted at any time. Nothing is synced but what is gathered, because nothing depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillpack_store import disk
from skillpack_store.changes import find_changes
from skillpack_store.descriptors import parse_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from skillpack_store.descriptors import Descriptor
    from skillpack_store.documents import Commit
    from skillpack_store.repository import Repository

__all__ = ["CommitGraph", "CommitRecord", "record_of"]

Pair = tuple["str | None", "str | None"]

_HEADER = "skillpack history 1 "
_HEX = re.compile(r"[0-9a-f]{64}")
_LIMIT = 1 << 30  # bytes of a file of records
_GATHER = 32  # records outside of cache/history that are worth writing it again
_SAVE = 1024  # records computed in one go that are worth it at once
_DOCUMENTS = 64  # parsed commits to remember: the next one to be computed is mostly a parent of the last


@dataclass(frozen=True)
class CommitRecord:
    """A commit without the library that it lists.

    Attributes:
        digest: The commit's.
        parents: As in the commit.
        time: When, RFC 3339 in UTC.
        author: Who.
        message: Why.
        changes: For each parent, in their order, name -> digest there and digest here of the skills that are not the
            same; None where there is no such skill. A commit without parents is compared with the empty library.
    """

    digest: str
    parents: tuple[str, ...]
    time: str
    author: str
    message: str
    changes: tuple[Mapping[str, Pair], ...]

    def to_json(self) -> list[Any]:
        """A list, because there are many."""
        return [self.digest, self.parents, self.time, self.author, self.message, self.changes]

    @classmethod
    def from_json(cls, document: Any) -> CommitRecord:
        """Inverse of ``to_json``; raises ``ValueError`` or ``TypeError`` if it is no record."""
        digest, parents, time, author, message, changes = document
        for text in (time, author, message):
            if not isinstance(text, str):
                raise TypeError("a record lacks a text")
        if len(changes) != max(1, len(parents)):
            raise ValueError("a record lacks changes")
        parents = tuple(parse_digest(parent) for parent in parents)
        changed = tuple({name: _pair(pair) for name, pair in change.items()} for change in changes)
        return cls(parse_digest(digest), parents, time, author, message, changed)


class CommitGraph:
    """The records of a store's commits, kept in a folder that holds nothing else.

    Args:
        repository: Where the commits are.
        folder: ``cache`` of the store; made when the first record is kept.
    """

    def __init__(self, repository: Repository, folder: Path) -> None:
        self._repository = repository
        self._folder = folder
        self._records: dict[str, CommitRecord] | None = None
        self._loose: set[str] = set()
        self._computed = 0
        self._documents: OrderedDict[str, Commit] = OrderedDict()

    def get(self, digest: str) -> CommitRecord:
        """Return the record of a commit.

        Raises:
            NotFoundError: The commit, or a parent of it, is not in the store.
            CorruptStoreError: It is damaged or not a commit.
        """
        records = self._loaded()
        if digest not in records:
            commit = self._read(digest)
            records[digest] = record_of(commit, [self._read(parent) for parent in commit.parents])
            self._computed += 1
            if self._computed >= _SAVE:
                self._gather()
        return records[digest]

    def first_parents(self, digest: str) -> Iterator[CommitRecord]:
        """Yield the records of a commit and of those that it was made on, newest first."""
        following: str | None = digest
        while following is not None:
            record = self.get(following)
            yield record
            following = record.parents[0] if record.parents else None

    def ancestors(self, *digests: str) -> dict[str, CommitRecord]:
        """Return the records of commits and of everything before them, by digest."""
        found: dict[str, CommitRecord] = {}
        waiting = list(digests)
        while waiting:
            digest = waiting.pop()
            if digest not in found:
                found[digest] = self.get(digest)
                waiting.extend(found[digest].parents)
        return found

    def note(self, commit: Commit, parents: Sequence[Commit]) -> None:
        """Keep the record of a commit that was just made, with one small file."""
        record = record_of(commit, parents)
        if self._records is not None:
            self._records[record.digest] = record
        path = self._folder / "recent" / record.digest.removeprefix("sha256:")
        # A cache: where it cannot be written, the documents are read.
        with contextlib.suppress(OSError):
            disk.make_directory(path.parent)
            fd = disk.create(path)
            try:
                disk.write(fd, _dump([record]))
            finally:
                disk.close(fd)
            self._loose.add(path.name)

    def settle(self) -> None:
        """Gather the records on the disk if that makes the next reader faster."""
        if self._computed + len(self._loose) >= _GATHER:
            self._gather()

    def forget(self) -> None:
        """Throw the records away, in memory and on the disk; they are computed again as they are needed."""
        self._records, self._computed = {}, 0
        with contextlib.suppress(OSError):
            disk.remove_tree(self._folder)
        self._loose.clear()

    def _read(self, digest: str) -> Commit:
        commit = self._documents.pop(digest, None) or self._repository.read_commit(digest)
        self._documents[digest] = commit
        if len(self._documents) > _DOCUMENTS:
            self._documents.popitem(last=False)
        return commit

    def _loaded(self) -> dict[str, CommitRecord]:
        if self._records is None:
            self._loose = set(_names(self._folder / "recent"))
            # In this order, because records go from the one place to the other.
            files = [*(self._folder / "recent" / name for name in sorted(self._loose)), self._folder / "history"]
            self._records = {record.digest: record for path in files for record in _load(path)}
        return self._records

    def _gather(self) -> None:
        records = self._loaded()
        self._computed = 0
        with contextlib.suppress(OSError):
            disk.make_directory(self._folder)
            disk.replace(self._folder / "history", [_dump(records[digest] for digest in sorted(records))])
            # Also those that could not be read: they tell nothing.
            for name in sorted(self._loose):
                with contextlib.suppress(FileNotFoundError):
                    disk.unlink(self._folder / "recent" / name)
            self._loose.clear()


def record_of(commit: Commit, parents: Sequence[Commit]) -> CommitRecord:
    """Return what a commit says in short.

    Args:
        commit: The commit.
        parents: Its parents, in their order.
    """
    before: list[Mapping[str, Descriptor]] = [parent.skills for parent in parents] or [{}]
    changes = tuple(_changes(skills, commit.skills) for skills in before)
    return CommitRecord(commit.digest, commit.parents, commit.time, commit.author, commit.message, changes)


def _changes(before: Mapping[str, Descriptor], after: Mapping[str, Descriptor]) -> dict[str, Pair]:
    return {change.name: change.digests for change in find_changes(before, after)}


def _pair(document: Any) -> Pair:
    before, after = (None if digest is None else parse_digest(digest) for digest in document)
    if before == after:
        raise ValueError("a change changes nothing")
    return before, after


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir() if _HEX.fullmatch(path.name)]
    except OSError:
        return []


def _dump(records: Iterable[CommitRecord]) -> bytes:
    lines = [json.dumps(record.to_json(), separators=(",", ":")) for record in records]
    content = "".join(f"{line}\n" for line in lines).encode()
    return f"{_HEADER}{hashlib.sha256(content).hexdigest()}\n".encode() + content


def _load(path: Path) -> list[CommitRecord]:
    """Return the records in a file; none if it is gone, cut short, damaged, or of another version."""
    try:
        with path.open("rb") as file:
            head, _, content = file.read(_LIMIT).partition(b"\n")
        if head.decode() != f"{_HEADER}{hashlib.sha256(content).hexdigest()}":
            return []
        return [CommitRecord.from_json(json.loads(line)) for line in content.splitlines()]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return []
