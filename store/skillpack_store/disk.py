"""The only place that changes the file system.

Primitives make one system call each; composites are built from primitives alone. Call both as attributes of this
module (``disk.rename(...)``): crash tests wrap every primitive, record what happened, and rebuild the folder as a
crash after any prefix of it would have left it.

Errors of the operating system (no space, read-only, no permission) are raised as ``OSError`` with the file name set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

__all__ = [
    "PRIMITIVES",
    "close",
    "create",
    "link",
    "make_directory",
    "mkdir",
    "remove_tree",
    "rename",
    "replace",
    "rmdir",
    "set_mode",
    "sync",
    "sync_directory",
    "temporary_name",
    "touch",
    "unlink",
    "write",
    "write_exclusive",
    "write_new",
]

PRIMITIVES = (
    "create",
    "write",
    "sync",
    "close",
    "rename",
    "link",
    "unlink",
    "mkdir",
    "rmdir",
    "sync_directory",
    "set_mode",
    "touch",
)


def create(path: Path, mode: int = 0o644) -> int:
    """Create the file ``path``, which must not exist, and return a descriptor open for writing."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def write(fd: int, data: Buffer) -> None:
    """Append all bytes of ``data`` (any C-contiguous buffer) to the open file ``fd``."""
    view = memoryview(data)
    if not view.nbytes:
        return
    view = view.cast("B")
    while view:
        view = view[os.write(fd, view) :]


def sync(fd: int) -> None:
    """Bring the data of the open file ``fd`` to the disk."""
    os.fsync(fd)


def close(fd: int) -> None:
    """Close the descriptor ``fd``."""
    os.close(fd)


def rename(source: Path, target: Path) -> None:
    """Give ``source`` the name ``target``, taking the place of a file that has it."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Give ``source`` a second name ``target``; raises ``FileExistsError`` where that is taken."""
    os.link(source, target, follow_symlinks=False)


def unlink(path: Path) -> None:
    """Remove the name ``path`` of a file."""
    os.unlink(path)  # noqa: PTH108


def mkdir(path: Path) -> None:
    """Create the folder ``path``, whose parent exists."""
    os.mkdir(path)  # noqa: PTH102  one system call, like its neighbours


def rmdir(path: Path) -> None:
    """Remove the empty folder ``path``."""
    os.rmdir(path)  # noqa: PTH106


def sync_directory(path: Path) -> None:
    """Bring the names in the folder ``path`` to the disk: creations, renames and removals."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot sync a folder and say so; they write names through.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


def set_mode(path: Path, mode: int) -> None:
    """Set the permission bits of ``path``."""
    os.chmod(path, mode)  # noqa: PTH101


def touch(path: Path) -> None:
    """Set the modification time of ``path`` to now."""
    os.utime(path)


def temporary_name(path: Path) -> Path:
    """Return a name for a temporary file beside ``path`` that nobody else uses.

    >>> name = temporary_name(Path("models/a.bin")).name
    >>> name.startswith(".a.bin."), name.endswith(".tmp")
    (True, True)
    """
    # Cut, because a name may already be as long as a file system allows.
    return path.with_name(f".{path.name[:48]}.{secrets.token_hex(8)}.tmp")


def make_directory(path: Path) -> None:
    """Create the folder ``path`` and the parents it lacks, each durable before anything is put in it.

    Raises:
        NotADirectoryError: Something that is not a folder has the name.
    """
    path = Path(path)
    if path.is_dir():
        return
    if path.parent != path:
        make_directory(path.parent)
    try:
        mkdir(path)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    sync_directory(path.parent)


def write_new(path: Path, chunks: Iterable[Buffer], mode: int = 0o644) -> None:
    """Write ``chunks`` to the file ``path``, which must not exist; on any error the file is removed again.

    Args:
        path: The file.
        chunks: Its content.
        mode: Its permission bits from the first byte on, less those that the umask takes away.
    """
    fd = create(path, mode)
    opened = True
    try:
        for chunk in chunks:
            with _naming(path):
                write(fd, chunk)
        with _naming(path):
            sync(fd)
            opened = False
            close(fd)
    except BaseException:
        if opened:
            close(fd)
        _discard(path)
        raise


def replace(path: Path, chunks: Iterable[Buffer]) -> None:
    """Make ``chunks`` the content of ``path`` in one durable step: readers and crashes see the old file or the new."""
    temporary = temporary_name(path)
    write_new(temporary, chunks)
    try:
        rename(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    sync_directory(path.parent)


def write_exclusive(path: Path, chunks: Iterable[Buffer], mode: int = 0o644) -> bool:
    """Create ``path`` with ``chunks`` as its whole content, or leave what is there.

    Args:
        path: The file.
        chunks: Its content.
        mode: See ``write_new``.

    Returns:
        True if this call created the file, False if the name was taken. Of several processes exactly one gets True.
    """
    temporary = temporary_name(path)
    write_new(temporary, chunks, mode)
    try:
        created = _link_once(temporary, path)
    finally:
        _discard(temporary)
    sync_directory(path.parent)
    return created


def remove_tree(path: Path) -> None:
    """Remove the folder ``path`` and everything in it; symbolic links are removed, not followed, ``path`` included."""
    if path.is_symlink():
        unlink(path)
        return
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            unlink(Path(entry.path))
    rmdir(path)


def _link_once(source: Path, target: Path) -> bool:
    try:
        link(source, target)
    except FileExistsError:
        # NFS resends a link whose answer was lost; the second try then fails against the first. Two names on the
        # file tell that it was ours.
        return os.stat(source).st_nlink == 2  # noqa: PTH116
    return True


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Calls on an open file do not say which file they failed on; this adds it."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        unlink(path)
