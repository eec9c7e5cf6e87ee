"""Blobs as a check sees them: files that may be anything, whatever their name, size and mode say."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from skillpack_store.findings import Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["BlobFile", "FileProblem", "hash_file", "look", "read_file"]

_CHUNK = 1 << 20  # bytes


class FileProblem(Exception):  # noqa: N818  a finding on its way, not an error of the program
    """A file cannot be used.

    Attributes:
        problem: Its kind.
        detail: A sentence.
    """

    def __init__(self, problem: Problem, detail: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail


class BlobFile(NamedTuple):
    """A regular file: its size in bytes and its modification time, seconds since 1970."""

    size: int
    modified: float


def look(path: Path) -> BlobFile | None:
    """Return what there is under a name; None if there is nothing.

    Raises:
        FileProblem: It is not a regular file.
    """
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(error) from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a folder" if stat.S_ISDIR(status.st_mode) else ""
        raise FileProblem(Problem.BLOB_NOT_A_FILE, f"It is {kind or 'a device or pipe'}, not a file.")
    return BlobFile(status.st_size, status.st_mtime)


def hash_file(path: Path, digest: str, advance: Callable[[int], None]) -> None:
    """Compare a file with its digest.

    Args:
        path: The file; a symbolic link is not followed.
        digest: What it should have.
        advance: Called with the number of bytes of each chunk.

    Raises:
        FileNotFoundError: It is gone.
        FileProblem: It has another digest, or cannot be read.
    """
    content = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                content.update(view[:count])
                advance(count)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(error) from None
    _compare(digest, content.hexdigest())


def read_file(path: Path, digest: str, limit: int) -> bytes:
    """Return the content of a small file that has its digest.

    Args:
        path: The file; a symbolic link is not followed.
        digest: What it should have.
        limit: The most bytes it may have.

    Raises:
        FileNotFoundError: It is gone.
        FileProblem: It has another digest, is too long, or cannot be read.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(error) from None
    if len(data) > limit:
        hash_file(path, digest, lambda _: None)
        raise FileProblem(Problem.DOCUMENT_MALFORMED, f"It is longer than the {limit} bytes that a document may have.")
    _compare(digest, hashlib.sha256(data).hexdigest())
    return data


def _compare(digest: str, found: str) -> None:
    if digest != f"sha256:{found}":
        raise FileProblem(Problem.BLOB_DAMAGED, f"Its content has digest sha256:{found}.")


def _unreadable(error: OSError) -> FileProblem:
    return FileProblem(Problem.FILE_UNREADABLE, f"It cannot be read: {error.strerror}.")
