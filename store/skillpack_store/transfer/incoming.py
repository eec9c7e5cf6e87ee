"""What arrived of blobs that are not complete yet: ``incoming/<hex>.<random>.part`` in the store.

Every download writes a file of its own, so that processes that fetch the same blob cannot spoil each other's, with or
without locks. A later download copies what an earlier one left, hashing it, and goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import TYPE_CHECKING

from skillpack_store import disk
from skillpack_store.blobs import CHUNK

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from skillpack_store.blobs import BlobStore

__all__ = ["Incoming", "Part"]


class Part:
    """A blob that is arriving.

    Attributes:
        path: Its file.
        size: How many bytes are there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._content = hashlib.sha256()
        self._fd = disk.create(path)
        self._open = True

    @property
    def digest(self) -> str:
        """The digest of what is there."""
        return f"sha256:{self._content.hexdigest()}"

    def write(self, chunk: Buffer) -> None:
        """Append bytes."""
        disk.write(self._fd, chunk)
        self._content.update(chunk)
        self.size += memoryview(chunk).nbytes

    def close(self, *, sync: bool = False) -> None:
        """Close the file, which stays; with ``sync`` its bytes are on the disk afterwards."""
        if self._open:
            self._open = False
            try:
                if sync:
                    disk.sync(self._fd)
            finally:
                disk.close(self._fd)


class Incoming:
    """The parts in one folder.

    Args:
        folder: ``incoming`` of a store, on the file system of its blobs; made when something arrives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def leftovers(self, digest: str, most: int | None = None) -> list[Path]:
        """Return the parts of a blob, the longest first; any of them may be gone by now.

        Args:
            digest: The blob.
            most: Its size in bytes, if those that are longer do not matter.
        """
        found = []
        for path in self.folder.glob(f"{_hex(digest)}.*.part") if self.folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_size, path))
        return [path for size, path in sorted(found, reverse=True) if most is None or size <= most]

    def start(self, digest: str, size: int, *, resume: bool) -> Part:
        """Return a new part of a blob.

        Args:
            digest: The blob.
            size: Its size in bytes.
            resume: Begin with what an earlier download left.
        """
        disk.make_directory(self.folder)
        part = Part(self.folder / f"{_hex(digest)}.{secrets.token_hex(8)}.part")
        if resume:
            for path in self.leftovers(digest, size):
                if path != part.path:
                    _copy(path, part)
                    break
        return part

    def discard(self, digest: str) -> None:
        """Remove all parts of a blob."""
        for path in self.leftovers(digest):
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(path)

    def settle(self, part: Path, digest: str, blobs: BlobStore) -> None:
        """Move a complete part, whose digest was compared, to the blobs; parts of the same blob are removed."""
        disk.make_directory(blobs.folder)
        try:
            blobs.settle(part, digest)
        except FileNotFoundError:
            # Another process was faster with the same blob and removed what it took for leftovers.
            blobs.verify(digest)
            blobs.refresh(digest)
        self.discard(digest)


def _copy(path: Path, part: Part) -> None:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        # Not more than its size now: another process may be writing to it.
        left = path.stat().st_size
        while left and (chunk := file.read(min(left, CHUNK))):
            part.write(chunk)
            left -= len(chunk)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
