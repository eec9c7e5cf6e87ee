"""One command at a time on a model folder.

The lock is an advisory `flock` on a file that holds the process id of its owner; the kernel drops it when the owner
dies, so that a killed command blocks nobody. Where `flock` does not work or succeeds for everybody (some network file
systems), two commands can get this far together. The model survives that: the journal is created exclusively, so that
only one of the two commits, and an original is put aside with a hard link, which cannot take another file's place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING

from skillpack.errors import BusyFolderError
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from skillpack.installing.model_folder import ModelFolder

_TRIES = 20
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def locked(folder: ModelFolder) -> Iterator[None]:
    """Hold the folder's lock; makes `folder.state` if it is not there, and leaves that to the caller.

    Raises:
        BusyFolderError: another command holds it.
        OSError: the folder cannot be written; it is as it was.
    """
    path = folder.state / "folder.lock"
    try:
        fd = _acquire(folder, path)
    except OSError:
        with contextlib.suppress(OSError):
            for made in folder.state_folders():
                disk.rmdir(made)
        raise
    try:
        yield
    finally:
        _release(fd, path)


def owner(folder: ModelFolder) -> str:
    """How to call the process that holds or last held the lock, for messages."""
    try:
        pid = (folder.state / "folder.lock").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        pid = ""
    return f"process {pid}" if pid.isdigit() else "another process"


def _acquire(folder: ModelFolder, path: Path) -> int:
    for _ in range(_TRIES):
        try:
            disk.make_directory(folder.state)
            fd = disk.create(path)
        except FileExistsError:
            _discard_stale(folder, path)
            continue
        except FileNotFoundError:
            # The command that held the lock has just taken its state away.
            continue
        if _flock(fd) and _is_same(fd, path):
            try:
                disk.write(fd, f"{os.getpid()}\n".encode())
            except OSError:
                _release(fd, path)
                raise
            return fd
        disk.close(fd)
    raise _busy(folder)


def _release(fd: int, path: Path) -> None:
    # Unlinked while it is held: whoever gets the old file's lock afterwards sees that it has no name any more.
    with contextlib.suppress(OSError):
        disk.unlink(path)
    disk.close(fd)


def _discard_stale(folder: ModelFolder, path: Path) -> None:
    """Remove the lock file of a process that is gone."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not _flock(fd):
            raise _busy(folder)
        if _is_same(fd, path):
            disk.unlink(path)
    finally:
        os.close(fd)


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _busy(folder: ModelFolder) -> BusyFolderError:
    return BusyFolderError(
        f"{folder.root}: {owner(folder)} is installing or removing skills here",
        hint="Wait until it is done and try again.",
    )
