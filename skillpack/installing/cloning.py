"""Copies of files that share their bytes where the file system can, and that never write through to the source."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, Literal

from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FICLONE: Final = 0x40049409
"""Linux: make a file share another one's extents until either is written (ioctl_ficlone(2))."""
_CHUNK: Final = 4 << 20
_REFUSED: Final = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
}

Cloned = Literal["link", "reflink", "copy"]


def clone(source: Path, target: Path, *, link: bool = False, advance: Callable[[int], None] | None = None) -> Cloned:
    """Make `target` a durable copy of `source` with its permissions; symbolic links are followed.

    Args:
        source: a file.
        target: must not exist; its folder must.
        link: make it a hard link, so that both are one file; where that is not possible, a copy as otherwise.
        advance: called with bytes as they are done.

    Returns:
        How it was done.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    source = source.resolve()
    status = source.stat()
    done: Cloned = "link" if link and _link(source, target) else "reflink"
    if done != "link":
        if not reflink(source, target):
            disk.write_new(target, _chunks(source, advance))
            done = "copy"
        disk.set_mode(target, status.st_mode & 0o777 | 0o200)
    if advance is not None and done != "copy":
        advance(status.st_size)
    return done


def reflink(source: Path, target: Path) -> bool:
    """Make `target`, which must not exist, share the bytes of `source`; False where the file system cannot."""
    fd = disk.create(target)
    try:
        with source.open("rb") as file:
            fcntl.ioctl(fd, _FICLONE, file.fileno())
        disk.sync(fd)
    except OSError as error:
        disk.unlink(target)
        if error.errno not in _REFUSED:
            raise
        return False
    finally:
        disk.close(fd)
    return True


def _link(source: Path, target: Path) -> bool:
    try:
        disk.link(source, target)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False
    return True


def _chunks(source: Path, advance: Callable[[int], None] | None) -> Iterator[bytes]:
    with source.open("rb", buffering=0) as file:
        # Not os.sendfile: every change of the file system goes through `disk`.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL) if hasattr(os, "posix_fadvise") else None
        while chunk := file.read(_CHUNK):
            yield chunk
            if advance is not None:
                advance(len(chunk))
