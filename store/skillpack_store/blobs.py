"""Blobs: content-addressed files, ``blobs/sha256/<hex>``.

A file's name, size and mode are hints. Only a digest that was just computed counts, so everything that is returned by
``read`` and ``stream`` was hashed on the way out. A blob that is in the trash is taken back by whoever asks for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from skillpack_store import disk
from skillpack_store.descriptors import parse_digest
from skillpack_store.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.reading import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from typing_extensions import Buffer

    from skillpack_store.trash import Trash

__all__ = ["BlobStore", "WrittenBlob"]

CHUNK = 1 << 20  # bytes
_HEX = re.compile(r"[0-9a-f]{64}")
_TRIES = 20


class WrittenBlob(NamedTuple):
    """What ``BlobStore.put`` wrote: the digest, and the size in bytes."""

    digest: str
    size: int


class BlobStore:
    """The blobs in one folder.

    Args:
        folder: ``blobs/sha256`` of an OCI image layout; made when the first blob is written.
        trash: Where a garbage collection puts blobs, if there is one.
    """

    def __init__(self, folder: Path, trash: Trash | None = None) -> None:
        self.folder = folder
        self.trash = trash

    def path(self, digest: str) -> Path:
        """Return where the blob is kept, whether it is there or not.

        Raises:
            ValueError: ``digest`` is not a digest.
        """
        return self.folder / parse_digest(digest).removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Tell whether a file for the blob is there; its content may be damaged."""
        return self._stat_size(digest) is not None

    def size(self, digest: str) -> int:
        """Return the size of the blob's file in bytes.

        Raises:
            NotFoundError: The blob is not there.
        """
        size = self._stat_size(digest)
        if size is None:
            raise self._missing(digest)
        return size

    def peek(self, digest: str) -> int | None:
        """Return the size of the blob's file in bytes; None if it is not there, or in the trash, where it is left."""
        try:
            status = self.path(digest).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def refresh(self, digest: str) -> int:
        """Set the blob's modification time to now, so that the grace period of a garbage collection starts anew.

        Returns:
            The size of its file in bytes.

        Raises:
            NotFoundError: The blob is not there.
            CorruptStoreError: The file belongs to somebody else, and its content has another digest.
        """
        for _ in range(_TRIES):
            size = self.size(digest)
            try:
                disk.touch(self.path(digest))
            except FileNotFoundError:
                continue
            except PermissionError:
                return self.put(self.stream(digest), expect=digest).size
            # A collection that took it away in the middle of the call may not have seen the new time.
            if self.peek(digest) is not None:
                return size
        raise self._missing(digest)

    def put(self, chunks: Iterable[Buffer], *, expect: str | None = None) -> WrittenBlob:
        """Store a blob; when this returns it is on the disk under its digest.

        A blob that is there and intact is kept and its modification time refreshed (which protects it from a garbage
        collection that runs now); one that is damaged is replaced.

        Args:
            chunks: The content in order, streamed: memory is bounded by the largest chunk.
            expect: The announced digest, if the content comes from elsewhere.

        Raises:
            CorruptStoreError: The content does not have the announced digest. Nothing is kept.
            OSError: The disk is full or not writable. Nothing is kept.
        """
        announced = None if expect is None else parse_digest(expect)
        disk.make_directory(self.folder)
        temporary = disk.temporary_name(self.folder / "blob")
        hashing = _Hashing(chunks)
        disk.write_new(temporary, hashing)
        try:
            if announced is not None:
                hashing.compare(announced)
            self.settle(temporary, hashing.digest)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.unlink(temporary)
            raise
        return WrittenBlob(hashing.digest, hashing.size)

    def open(self, digest: str) -> BinaryIO:
        """Open the blob's file for reading, unverified; see ``stream`` for content that is checked.

        Raises:
            NotFoundError: The blob is not there.
        """
        for _ in range(_TRIES):
            self.size(digest)
            with contextlib.suppress(FileNotFoundError):
                return open_regular(self.path(digest))
        raise self._missing(digest)

    def read(self, digest: str, *, limit: int) -> bytes:
        """Return the whole blob, hashed after reading.

        Args:
            digest: The blob.
            limit: The most bytes to read into memory.

        Raises:
            NotFoundError: The blob is not there.
            StoreError: It is larger than ``limit``.
            CorruptStoreError: The file's content has another digest.
        """
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise StoreError(f"Blob {digest} has more than the {limit} bytes expected of its kind.")
        self._compare(digest, hashlib.sha256(data).hexdigest())
        return data

    def stream(self, digest: str) -> Iterator[bytes]:
        """Yield the blob in chunks; the last thing it does is to raise if what was yielded has another digest.

        Raises:
            NotFoundError: The blob is not there.
            CorruptStoreError: The file's content has another digest.
        """
        content = hashlib.sha256()
        with self.open(digest) as file:
            while chunk := file.read(CHUNK):
                content.update(chunk)
                yield chunk
        self._compare(digest, content.hexdigest())

    def verify(self, digest: str) -> None:
        """Hash the blob's file.

        Raises:
            NotFoundError: The blob is not there.
            CorruptStoreError: The file's content has another digest.
        """
        for _ in self.stream(digest):
            pass

    def __iter__(self) -> Iterator[str]:
        """Yield the digests that files are named after, sorted; other files (temporary ones) are passed over."""
        if self.folder.is_dir():
            names = sorted(path.name for path in self.folder.iterdir())
            yield from (f"sha256:{name}" for name in names if _HEX.fullmatch(name))

    def settle(self, temporary: Path, digest: str) -> None:
        """Give a complete file its name, unless an intact file has it; the temporary name is gone afterwards.

        Args:
            temporary: A file on the same file system whose content has the digest and is synced.
            digest: The digest.
        """
        path = self.path(digest)
        if self._is_intact(digest) and self._refreshed(digest):
            disk.unlink(temporary)
        else:
            disk.rename(temporary, path)
        # Also for a file that was there: whoever renamed it may not have come to this point yet, and the caller is
        # about to refer to it.
        disk.sync_directory(self.folder)
        with contextlib.suppress(OSError):
            disk.set_mode(path, 0o444)

    def _is_intact(self, digest: str) -> bool:
        try:
            self.verify(digest)
        except (NotFoundError, CorruptStoreError, OSError):
            return False
        return True

    def _stat_size(self, digest: str) -> int | None:
        size = self.peek(digest)
        if size is None and self.trash is not None and not self.path(digest).is_symlink():
            # Looked for again even if the trash does not have it: somebody may have taken it back since.
            self.trash.restore(digest)
            size = self.peek(digest)
        return size

    def _refreshed(self, digest: str) -> bool:
        """Refresh the modification time; False where the file went away meanwhile or belongs to somebody else."""
        try:
            disk.touch(self.path(digest))
        except OSError:
            return False
        return self.peek(digest) is not None

    def _compare(self, digest: str, found: str) -> None:
        if digest != f"sha256:{found}":
            raise CorruptStoreError(
                f"Blob {digest} is damaged: the content of {self.path(digest)} has digest sha256:{found}.",
                hint="Restore the file from a copy of the store, or store the same content again.",
            )

    def _missing(self, digest: str) -> NotFoundError:
        return NotFoundError(f"Blob {digest} is not in the store ({self.folder}).")


class _Hashing:
    """Passes chunks on and keeps their digest and size."""

    def __init__(self, chunks: Iterable[Buffer]) -> None:
        self._chunks = chunks
        self._content = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[Buffer]:
        for chunk in self._chunks:
            self._content.update(chunk)
            self.size += memoryview(chunk).nbytes
            yield chunk

    @property
    def digest(self) -> str:
        return f"sha256:{self._content.hexdigest()}"

    def compare(self, announced: str) -> None:
        if self.digest != announced:
            raise CorruptStoreError(
                f"Blob {announced} arrived damaged: the {self.size} bytes received have digest {self.digest}.",
                hint="Fetch it again; if it stays like this, the source is damaged.",
            )
