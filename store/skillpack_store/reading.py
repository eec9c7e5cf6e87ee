"""Opening files that somebody else may have put there: regular ones only, never through a link, never without end."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, BinaryIO

from skillpack_store.errors import CorruptStoreError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_regular", "read_small", "refuse_link"]


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; what is a link, a pipe or a device is not waited for and not followed.

    Raises:
        FileNotFoundError: There is nothing.
        OSError: It is something else (``ELOOP`` for a symbolic link), or cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(fd, "rb")


def read_small(path: Path, limit: int) -> bytes:
    """Return at most ``limit`` + 1 bytes of a regular file; see ``open_regular`` for what is raised."""
    with open_regular(path) as file:
        return file.read(limit + 1)


def refuse_link(folder: Path) -> None:
    """Refuse a folder of a store that is a symbolic link, through which the store would write elsewhere.

    Raises:
        CorruptStoreError: It is one.
    """
    if folder.is_symlink():
        raise CorruptStoreError(
            f"{folder} is a link to somewhere else; a store keeps everything within its own folder.",
            hint="If you made it, move what it points to here, or mount it here.",
        )
