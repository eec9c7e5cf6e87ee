"""Tar files, as little as archives of blobs need: regular files, streamed out, and found again in hostile input.

Format: POSIX.1-2017 pax, "ustar Interchange Format". The reader is our own because Python's follows links, sparse
maps and extended headers of any size, all of which an archive of a stranger may use against it.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Member", "member_bytes", "read_members", "tar_end"]

BLOCK = 512  # bytes
_PAX_LIMIT = 64 << 10  # bytes
_MEMBER_LIMIT = 100_000
_PAX_SIZE = re.compile(rb"\d{1,6} size=(\d{1,19})\n")


class Member(NamedTuple):
    """A regular file in a tar file: its name, where its content starts, and its size in bytes."""

    name: str
    start: int
    size: int


def member_bytes(name: str, size: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a regular file as a tar file holds it; the same for the same content wherever and whenever it is made.

    Args:
        name: Its name in the archive.
        size: What the chunks amount to, in bytes.
        chunks: Its content.
    """
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    yield info.tobuf(tarfile.PAX_FORMAT)
    yield from chunks
    yield bytes(-size % BLOCK)


def tar_end() -> bytes:
    """Return what follows the last member."""
    return bytes(2 * BLOCK)


def read_members(file: BinaryIO, length: int) -> list[Member]:
    """Return the regular files of a tar file, whose content all lies within it; folders are passed over.

    Args:
        file: The tar file, seekable.
        length: Its size in bytes.

    Raises:
        ValueError: It is not a tar file, is cut off, or has anything but files and folders in it.
    """
    members = []
    extended: int | None = None
    position = 0
    while header := _read_header(file, position):
        start = position + BLOCK
        size = _number(header[124:136]) if extended is None else extended
        kind = header[156:157]
        extended = None
        if start + size > length:
            raise ValueError("it is cut off")
        if kind == b"x":
            extended = _extended_size(file, start, size)
        elif kind in {b"0", b"\0"}:
            members.append(Member(_name(header), start, size))
        elif kind not in {b"5", b"g"}:
            raise ValueError(f"{_name(header)[:120]!r} in it is neither a file nor a folder")
        if len(members) > _MEMBER_LIMIT:
            raise ValueError(f"it has more than {_MEMBER_LIMIT} files")
        position = start + size + -size % BLOCK
    return members


def _read_header(file: BinaryIO, position: int) -> bytes:
    """Return the header at a position; empty at the end of the archive."""
    file.seek(position)
    header = file.read(BLOCK)
    if len(header) < BLOCK:
        raise ValueError("it is cut off" if position else "it is not a tar file")
    if not any(header):
        return b""
    blanked = header[:148] + b" " * 8 + header[156:]
    if _number(header[148:156]) != sum(blanked):
        raise ValueError(f"the header at byte {position} is damaged" if position else "it is not a tar file")
    return header


def _number(field: bytes) -> int:
    """Read a number: octal digits, or (GNU, for 8 GiB and more) a set first bit and big-endian bytes."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError("a number in a header is damaged")
    return int(digits or b"0", 8)


def _extended_size(file: BinaryIO, start: int, size: int) -> int | None:
    """Return the size that a pax header gives the file after it; other records are about names and times."""
    if size > _PAX_LIMIT:
        raise ValueError("an extended header in it is too large")
    file.seek(start)
    records = file.read(size)
    if b" path=" in records or b" linkpath=" in records or b" GNU.sparse" in records:
        raise ValueError("an extended header in it changes a name")
    found = _PAX_SIZE.search(records)
    return int(found[1]) if found else None


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "backslashreplace")
