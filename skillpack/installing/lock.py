"""One command at a time on a model folder.

The lock is an advisory `flock` on a file that names its owner; the kernel drops it when the owner dies, so that a
killed command blocks nobody. Where `flock` does not work or succeeds for everybody (some network file systems), that
name still keeps out the commands of the same machine while the owner lives. Commands of two machines can then get this
far together; but the journal is created exclusively, so that only one of them commits, and an original is put aside
with a hard link, which cannot take another file's place.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.errors import BusyFolderError
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.installing.model_folder import ModelFolder

_TRIES = 40
_PAUSE = 0.05
_NAMELESS = 0.1
"""Seconds for which a lock file without a name is taken for that of a command that is just starting."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}


@contextlib.contextmanager
def locked(folder: ModelFolder) -> Iterator[None]:
    """Hold the folder's lock; makes `folder.state` if it is not there, and leaves that to the caller.

    Raises:
        BusyFolderError: another command holds it.
        SkillPackError: our corner of the folder is a link to somewhere else.
        OSError: the folder cannot be written; it is as it was.
    """
    folder.refuse_links()
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
    pid = _read(folder.state / "folder.lock").partition(" ")[0]
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
                disk.write(fd, f"{_name(os.getpid())}\n".encode())
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
        name = _read(path)
        if not _flock(fd) or _is_another(name):
            raise _busy(folder)
        if not name and time.time() - os.fstat(fd).st_mtime < _NAMELESS:
            time.sleep(_PAUSE)
        elif _is_same(fd, path):
            disk.unlink(path)
    finally:
        os.close(fd)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _name(pid: int) -> str:
    """What tells a process from all others: its id, when it started, and its machine; empty if it does not live."""
    try:
        # The second field may hold spaces and brackets; the state is the third and the start time the 22nd.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        state, started = fields[0], fields[19]
    except (OSError, IndexError):
        state, started = "?", "?"
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
        except OSError:
            pass
    return "" if state in "ZX" else f"{pid} {started} {os.uname().nodename}"


def _is_another(name: str) -> bool:
    """Whether a name is that of a living process of this machine, this one excepted."""
    pid = name.partition(" ")[0]
    return pid.isdigit() and int(pid) != os.getpid() and name == _name(int(pid))


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
