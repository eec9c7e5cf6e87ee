"""Garbage collection: blobs that nothing names go to the trash, and from there, after a while, for good.

The order of what one collection does makes it safe beside others and beside writers, without a lock:

1. Old entries of ref logs are pruned.
2. Everything that the roots lead to is marked, and everything that was written or used again within the grace period
   or by somebody who writes now, with all it leads to. One root that cannot be read stops the collection.
3. What is not marked moves to the trash; whoever needs it takes it back from there.
4. The writers and then the roots are looked at again. What came into use meanwhile goes back.
5. What was in the trash before 4, for longer than the trash keeps things, is deleted.

A writer (see ``skillpack_store.writers``) that began before 4 is seen there. One that began after it finds out which
blobs are not in their place any more, because 3 was over: it takes them back or is told that they are missing.
"""

from __future__ import annotations

import contextlib
import re
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from skillpack_store import disk
from skillpack_store.errors import BusyError
from skillpack_store.marking import Marking
from skillpack_store.roots import expired_entries, find_roots, read_anywhere, require_roots, subject_of
from skillpack_store.view import refresh_index
from skillpack_store.writers import dead_writers, oldest_writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from skillpack_store.repository import Repository
    from skillpack_store.roots import Roots
    from skillpack_store.trash import Trashed

__all__ = ["DAY", "Collected", "Tally", "collect_garbage", "empty_tally", "undo_collection"]

DAY = 86_400.0  # seconds
_SLACK = 2.0  # seconds; the coarsest clock of a file system that is in use (FAT)
_TEMPORARY = re.compile(r"\..+\.(tmp|partial)")
_TEMPORARY_LIFE = 3600.0  # seconds


class Tally(NamedTuple):
    """How many blobs or files, and their size in bytes."""

    number: int
    bytes: int

    def plus(self, size: int) -> Tally:
        """Return the tally with one more of this size."""
        return Tally(self.number + 1, self.bytes + size)


def empty_tally() -> Tally:
    """Return the tally of nothing."""
    return Tally(0, 0)


@dataclass
class Collected:
    """What a collection found and did, or in a dry run would do.

    Attributes:
        dry_run: Nothing was changed.
        used: Blobs that are in use.
        recent: Blobs that nothing names and that are kept, because they are recent or somebody writes now.
        trashed: Blobs that went to the trash.
        deleted: Blobs that were deleted from the trash.
        restored: Blobs that came back from the trash because they are in use again.
        in_trash: Blobs in the trash afterwards.
        temporary: Files that interrupted writers left and that were removed.
        pruned: Entries of ref logs that were removed.
        writing: Somebody writes now; what was written since they began is kept.
    """

    dry_run: bool
    used: Tally = field(default_factory=empty_tally)
    recent: Tally = field(default_factory=empty_tally)
    trashed: Tally = field(default_factory=empty_tally)
    deleted: Tally = field(default_factory=empty_tally)
    restored: Tally = field(default_factory=empty_tally)
    in_trash: Tally = field(default_factory=empty_tally)
    temporary: Tally = field(default_factory=empty_tally)
    pruned: int = 0
    writing: bool = False


def collect_garbage(
    repository: Repository,
    *,
    grace: float = 14 * DAY,
    trash_grace: float = 7 * DAY,
    expiry: float = 90 * DAY,
    dry_run: bool = False,
) -> Collected:
    """Move to the trash what nothing names, and delete what has been there for long.

    Args:
        repository: The store.
        grace: Seconds for which a blob is kept after it was last written or used again.
        trash_grace: Seconds for which the trash keeps what is put into it.
        expiry: Seconds for which the log of a ref keeps what something newer took the place of.
        dry_run: Change nothing; the result says what would be done.

    Raises:
        CorruptStoreError: Something that names blobs cannot be read. No blob was moved or deleted.
        StoreError: Nothing in the store is in use.
        OSError: The store cannot be written.
    """
    collection = _Collection(repository, grace, trash_grace, expiry, dry_run=dry_run)
    collection.mark()
    collection.sweep()
    collection.delete()
    collection.tidy()
    return collection.report


def undo_collection(repository: Repository) -> Tally:
    """Give everything in the trash its place back; its grace period starts anew.

    Returns:
        What came back.

    Raises:
        OSError: The store cannot be written.
    """
    tally = empty_tally()
    for batch in repository.trash.batches():
        for blob in repository.trash.blobs(batch):
            if repository.trash.restore(blob.digest):
                tally = tally.plus(blob.size)
    repository.trash.remove_empty()
    refresh_index(repository)
    return tally


class _Collection:
    """One collection; its steps are called in the order in which they stand here."""

    def __init__(
        self, repository: Repository, grace: float, trash_grace: float, expiry: float, *, dry_run: bool
    ) -> None:
        self.repository = repository
        self.grace = grace
        self.report = Collected(dry_run)
        self.now = time.time() if dry_run else _clock(repository.path)
        self.trash_until = self.now - trash_grace
        self.expired = expired_entries(repository, self.now, expiry)
        self.marking = Marking(lambda digest, limit: read_anywhere(repository, digest, limit), {})
        self.recent: set[str] = set()
        self.unused: dict[str, float] = {}
        self.moved: dict[Path, float] = {}

    def mark(self) -> None:
        """Find what is in use, and what is not and old enough; prune the logs once all of it could be read."""
        since = self.recent_since()
        self.follow(since, first=True)
        for digest, size, modified in _scan(self.repository):
            if digest in self.marking.digests and digest not in self.recent:
                self.report.used = self.report.used.plus(size)
            elif digest in self.recent or modified >= since:
                self.report.recent = self.report.recent.plus(size)
            else:
                self.unused[digest] = modified
                self.report.trashed = self.report.trashed.plus(size)
        self.report.pruned = sum(map(len, self.expired.values()))
        if not self.report.dry_run:
            for ref, numbers in self.expired.items():
                self.repository.refs.prune(ref, numbers)

    def sweep(self) -> None:
        """Move what is not in use to the trash."""
        if self.report.dry_run or not self.unused:
            return
        folder = self.repository.trash.new_batch(self.now)
        self.report.trashed = empty_tally()
        for digest, modified in self.unused.items():
            path = self.repository.blobs.path(digest)
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if status.st_mtime == modified:
                    disk.rename(path, folder / path.name)
                    self.moved[folder / path.name] = modified
                    self.report.trashed = self.report.trashed.plus(status.st_size)
        # The trash first: a name must not be gone from one folder before it is durably in the other.
        disk.sync_directory(folder)
        disk.sync_directory(self.repository.blobs.folder)

    def delete(self) -> None:
        """Look again at what is in use; give back what is, delete what is not and has been in the trash for long."""
        listed = [
            (batch, blob) for batch in self.repository.trash.batches() for blob in self.repository.trash.blobs(batch)
        ]
        doomed = {blob.digest for batch, blob in listed if batch.time <= self.trash_until}
        unlisted = self.unlist(doomed)
        writer = oldest_writer(self.repository.path / "writers", self.now)
        self.follow(self.recent_since())
        back = [blob for _, blob in listed if self.is_used_again(blob, writer)]
        for blob in back:
            self.marking.try_follow(blob.digest)
        self.relist(unlisted)
        for batch, blob in listed:
            if blob.digest in self.marking.digests:
                self.give_back(blob)
            elif batch.time <= self.trash_until:
                self.delete_one(blob)
            else:
                self.report.in_trash = self.report.in_trash.plus(blob.size)
        if self.report.dry_run:
            kept, more = self.report.in_trash, self.report.trashed
            self.report.in_trash = Tally(kept.number + more.number, kept.bytes + more.bytes)

    def tidy(self) -> None:
        """Remove what interrupted writers left, and show the refs as they are now."""
        repository, until = self.repository, self.now - max(self.grace, _TEMPORARY_LIFE)
        for path in _temporary_files(repository.path):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if status.st_mtime < until and not stat.S_ISDIR(status.st_mode):
                    self.report.temporary = self.report.temporary.plus(status.st_size)
                    if not self.report.dry_run:
                        disk.unlink(path)
        if not self.report.dry_run:
            for path in dead_writers(repository.path / "writers", self.now):
                with contextlib.suppress(FileNotFoundError):
                    disk.unlink(path)
            repository.trash.remove_empty()
            refresh_index(repository)

    def recent_since(self) -> float:
        """Return the modification time from which on a blob is recent, seconds since 1970."""
        writer = oldest_writer(self.repository.path / "writers", self.now)
        self.report.writing |= writer is not None
        return min(self.now - self.grace, self.now if writer is None else writer - _SLACK)

    def follow(self, since: float, *, first: bool = False) -> None:
        """Mark what the roots lead to now, then what recent blobs lead to."""
        roots: Roots = find_roots(self.repository, self.expired)
        if first:
            require_roots(self.repository, roots)
        self.marking.attach(roots.attached)
        for digest, name in roots.named:
            self.marking.follow(digest, name)
        for digest in roots.foreign:
            self.marking.try_follow(digest)
            if _is_missing(self.repository, digest):
                self.marking.follow(digest, "an entry of another program in index.json")
        for digest, _, modified in _scan(self.repository):
            if modified >= since and digest not in self.marking.digests:
                self.recent.add(digest)
                self.marking.try_follow(digest)

    def is_used_again(self, blob: Trashed, writer: float | None) -> bool:
        """Tell whether somebody used a blob again while it was on its way to the trash."""
        try:
            modified = blob.path.lstat().st_mtime
        except FileNotFoundError:
            return False
        by_writer = writer is not None and modified >= writer - _SLACK
        return by_writer or modified != self.moved.get(blob.path, modified)

    def unlist(self, doomed: set[str]) -> dict[str, str | None]:
        """Delete the refs to lists of attachments that are to be deleted with their subjects.

        Returns:
            Ref -> the list that it named; None if the ref was deleted before.
        """
        found: dict[str, str | None] = {}
        refs = self.repository.refs
        for ref in [] if self.report.dry_run else refs.all_names():
            subject = subject_of(ref)
            if subject is None or subject in self.marking.digests:
                continue
            if doomed.isdisjoint(entry.digest for entry in refs.log(ref)):
                continue
            value = refs.read(ref)
            found[ref] = None if value is None else value.digest
            if value is not None and value.digest is not None:
                with contextlib.suppress(BusyError):
                    refs.delete(ref, expected=value.digest)
        return found

    def relist(self, unlisted: dict[str, str | None]) -> None:
        """Set the refs again whose subjects came into use meanwhile; forget what the others named."""
        refs = self.repository.refs
        for ref, digest in unlisted.items():
            if subject_of(ref) not in self.marking.digests:
                refs.prune(ref, refs.numbers(ref)[:-1])
            elif digest is not None:
                with contextlib.suppress(BusyError):
                    refs.update(ref, digest, expected=None)

    def give_back(self, blob: Trashed) -> None:
        if self.report.dry_run or self.repository.trash.restore(blob.digest):
            self.report.restored = self.report.restored.plus(blob.size)

    def delete_one(self, blob: Trashed) -> None:
        # Gone by now if somebody took it back.
        with contextlib.suppress(FileNotFoundError):
            if not self.report.dry_run:
                disk.unlink(blob.path)
            self.report.deleted = self.report.deleted.plus(blob.size)


def _scan(repository: Repository) -> Iterator[tuple[str, int, float]]:
    """Yield digest, size and modification time of the files that have the name of a blob."""
    for digest in repository.blobs:
        with contextlib.suppress(FileNotFoundError):
            status = repository.blobs.path(digest).lstat()
            if not stat.S_ISDIR(status.st_mode):
                yield digest, status.st_size, status.st_mtime


def _is_missing(repository: Repository, digest: str) -> bool:
    try:
        repository.blobs.path(digest).lstat()
    except FileNotFoundError:
        return repository.trash.find(digest) is None
    return False


def _temporary_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a store that look temporary."""
    for place in ("", "blobs/sha256/", "cache/", "refs/*/*/", "refs/remotes/*/*/"):
        for path in folder.glob(f"{place}.*"):
            if _TEMPORARY.fullmatch(path.name):
                yield path
    yield from folder.glob("incoming/*.part")


def _clock(folder: Path) -> float:
    """Return the time of the file system, seconds since 1970; that of a network share need not be ours."""
    path = disk.temporary_name(folder / "clock")
    disk.close(disk.create(path))
    try:
        return path.lstat().st_mtime
    finally:
        disk.unlink(path)
