"""The trash: blobs that a garbage collection took out of use and has not deleted yet.

``trash/<time>-<random>/<hex>``, one folder a collection. Whoever needs a blob that is in the trash gets it back: a
hard link gives it its old name in one step, so that a deletion at the same instant either comes first (and the blob
is missing) or removes a name that is no longer needed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import stat
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

from skillpack_store import disk
from skillpack_store.descriptors import parse_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Batch", "Trash", "Trashed"]

_TIME = "%Y%m%dT%H%M%SZ"
_BATCH = re.compile(r"([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}")
_HEX = re.compile(r"[0-9a-f]{64}")


class Batch(NamedTuple):
    """What one collection took out of use: its folder's name, and when that was (seconds since 1970)."""

    name: str
    time: float


class Trashed(NamedTuple):
    """A blob in the trash: where, its digest, its size in bytes and its modification time (seconds since 1970)."""

    path: Path
    digest: str
    size: int
    modified: float


class Trash:
    """The trash of one store.

    Args:
        folder: ``trash`` of a store; made when the first blob is put into it.
        blobs: The folder that the blobs come from and go back to.
    """

    def __init__(self, folder: Path, blobs: Path) -> None:
        self.folder = folder
        self._blobs = blobs

    def batches(self) -> list[Batch]:
        """Return the batches, oldest first; other names are passed over."""
        try:
            names = sorted(path.name for path in self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [(name, _BATCH.fullmatch(name)) for name in names]
        return [Batch(name, _seconds(match[1])) for name, match in found if match is not None and _is_time(match[1])]

    def blobs(self, batch: Batch) -> Iterator[Trashed]:
        """Yield what is in a batch, sorted by digest."""
        folder = self.folder / batch.name
        try:
            names = sorted(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            path = folder / name
            if _HEX.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    yield Trashed(path, f"sha256:{name}", status.st_size, status.st_mtime)

    def find(self, digest: str) -> Path | None:
        """Return where the blob is in the trash, the newest if it is there several times; None if it is not."""
        name = parse_digest(digest).removeprefix("sha256:")
        for batch in reversed(self.batches()):
            path = self.folder / batch.name / name
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    return path
        return None

    def new_batch(self, now: float) -> Path:
        """Make the folder of a new batch.

        Args:
            now: Its time, seconds since 1970.
        """
        moment = datetime.fromtimestamp(now, timezone.utc).strftime(_TIME)
        folder = self.folder / f"{moment}-{secrets.token_hex(4)}"
        disk.make_directory(folder)
        return folder

    def restore(self, digest: str) -> bool:
        """Give a blob in the trash its name back, durably; its grace starts anew.

        Returns:
            False if it is not in the trash.

        Raises:
            OSError: The store cannot be written.
        """
        source = self.find(digest)
        if source is None:
            return False
        target = self._blobs / source.name
        with contextlib.suppress(PermissionError, FileNotFoundError):
            disk.touch(source)
        try:
            disk.link(source, target)
        except FileExistsError:
            pass
        except FileNotFoundError:
            # Deleted, or back already, since it was found here.
            return target.exists()
        except PermissionError:
            # Systems that protect the files of others against links let them be renamed.
            disk.rename(source, target)
        disk.sync_directory(self._blobs)
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(source)
        return True

    def remove_empty(self) -> None:
        """Remove the folders of batches that are empty."""
        for batch in self.batches():
            with contextlib.suppress(OSError):
                disk.rmdir(self.folder / batch.name)


def _is_time(text: str) -> bool:
    try:
        _seconds(text)
    except ValueError:
        return False
    return True


def _seconds(text: str) -> float:
    return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc).timestamp()
