"""Who writes to a store now: ``writers/<random>``, an empty file for the time of a commit, an import or a pull.

A garbage collection keeps whatever was written or used again since the oldest of them began, however short its grace
period. A writer makes its file first, then writes objects or refreshes their times, then moves refs; a collection
looks at these files and then at the refs after it has moved blobs to the trash and before it deletes any. So it sees
the file, or the ref, or the writer finds out that the blob is in the trash and takes it back. No lock is needed.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["WRITER_LIFE", "dead_writers", "oldest_writer", "writing"]

WRITER_LIFE = 86_400.0
"""Seconds after which a writer is taken for dead; what it wrote is then protected by the grace period alone."""


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Announce a writer.

    Args:
        folder: ``writers`` of a store.

    Raises:
        OSError: The store cannot be written.
    """
    disk.make_directory(folder)
    path = folder / secrets.token_hex(8)
    disk.close(disk.create(path))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            disk.unlink(path)


def oldest_writer(folder: Path, now: float) -> float | None:
    """Return when the oldest writer that is not taken for dead began, seconds since 1970; None if nobody writes."""
    times = [begun for _, begun in _writers(folder) if begun > now - WRITER_LIFE]
    return min(times, default=None)


def dead_writers(folder: Path, now: float) -> list[Path]:
    """Return the files of writers that are taken for dead."""
    return [path for path, begun in _writers(folder) if begun <= now - WRITER_LIFE]


def _writers(folder: Path) -> Iterator[tuple[Path, float]]:
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.lstat().st_mtime
