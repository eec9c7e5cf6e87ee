"""From errors of the operating system to messages about a model folder."""

from __future__ import annotations

import contextlib
import errno
import shutil
from typing import TYPE_CHECKING

from skillpack.errors import NoSpaceError, ReadOnlyError, SkillPackError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
MARGIN = 1 << 20
"""Bytes that have to be free beyond what is known to be needed, for folders and small files."""


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn an `OSError` into the error that a user can act on.

    Raises:
        NoSpaceError: the disk is full.
        ReadOnlyError: a file or folder may not be written.
        SkillPackError: any other error of the operating system.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise NoSpaceError(
                f"The disk is full: {where} cannot be written ({reason}; {megabytes(free_bytes(folder))} are free)",
                hint="Free some space and run the command again; everything is as it was before.",
            ) from error
        if error.errno in _READ_ONLY:
            raise ReadOnlyError(
                f"{where} cannot be written: {reason}", hint="Check the permissions, or make a new folder with -o OUT."
            ) from error
        raise SkillPackError(f"{where}: {reason}") from error


def check_space(folder: Path, needed: int) -> None:
    """Raise NoSpaceError if fewer than `needed` bytes are free where `folder` is or will be."""
    free = free_bytes(folder)
    if needed + MARGIN > free:
        raise NoSpaceError(
            f"{folder}: {megabytes(needed + MARGIN)} are needed, {megabytes(free)} are free",
            hint=f"Free {megabytes(needed + MARGIN - free)} and run the command again.",
        )


def free_bytes(folder: Path) -> int:
    """Bytes free on the file system on which `folder` is or will be."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def megabytes(count: int) -> str:
    """A number of bytes for a message.

    >>> megabytes(2_500_000)
    '2.5 MB'
    """
    return f"{count / 1e6:.1f} MB"
