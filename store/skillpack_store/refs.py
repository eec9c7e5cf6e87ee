"""Refs: names for digests, with their history.

A ref is a folder of numbered entries, ``refs/<kind>/<name>/<n>``. The highest number is the ref, the rest its log.
A new entry is created with the next number by a hard link, which fails if somebody else created it first: that is the
compare-and-swap, and it needs no lock. Deletion is an entry without a digest.

An entry holds a check value of itself. When the oldest entries are pruned, an empty file ``<n>.pruned`` says up to
which number, so that an entry that went missing otherwise is noticed.
``heads`` are branches, ``tags`` tags, ``referrers`` lists of attachments. ``remotes/<remote>/<branch>`` is what a
branch of a remote named when it was last looked at.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import re
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from skillpack_store import disk
from skillpack_store.descriptors import canonical_json, digest_of, parse_digest, parse_json
from skillpack_store.errors import BusyError, CorruptStoreError, NotFoundError, StoreError
from skillpack_store.reading import read_small, refuse_link

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["RefStore", "RefValue", "check_ref", "retry_busy"]

T = TypeVar("T")

KINDS = ("heads", "tags", "referrers", "remotes")
SHARED_KINDS = ("heads", "tags", "referrers")  # what other tools and other stores see; the rest is a store's own
_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_NAME_LIMIT = 100  # characters
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_PRUNED = re.compile(r"([1-9][0-9]{0,8})\.pruned")
ENTRY_LIMIT = 4096  # bytes
_CHECK_LENGTH = 16  # hexadecimal digits
_RESERVED = re.compile(r"head|con|prn|aux|nul|com[0-9]|lpt[0-9]")


class RefValue(NamedTuple):
    """One entry of a ref.

    Attributes:
        number: 1 for the first entry, and so on.
        digest: What the ref named from then on; None if it was deleted.
        time: When, RFC 3339 in UTC.
    """

    number: int
    digest: str | None
    time: str


class RefStore:
    """The refs in one folder.

    Args:
        folder: ``refs`` of a store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> RefValue | None:
        """Return the current value of the ref, such as ``heads/main``; None if it is not there or was deleted.

        Raises:
            StoreError: ``name`` is not a name for a ref.
            CorruptStoreError: The newest entry cannot be read.
        """
        return self._current(name)

    def update(self, name: str, digest: str, *, expected: str | None) -> RefValue:
        """Make the ref name ``digest`` if it now names ``expected``.

        Args:
            name: The ref.
            digest: The new value; its blob and all it refers to must be on the disk.
            expected: The digest that the caller based the new value on; None if the ref must not exist.

        Raises:
            BusyError: The ref names something else by now. Nothing was changed.
        """
        return self._append(name, parse_digest(digest), expected)

    def delete(self, name: str, *, expected: str) -> RefValue:
        """Make the ref name nothing if it now names ``expected``; its log stays.

        Raises:
            BusyError: The ref names something else by now. Nothing was changed.
        """
        return self._append(name, None, expected)

    def log(self, name: str) -> list[RefValue]:
        """Return all entries of the ref, newest first; none if it never was."""
        found = []
        for number in reversed(self.numbers(name)):
            # An old entry may be pruned between the listing and the reading.
            with contextlib.suppress(NotFoundError):
                found.append(self.entry(name, number))
        return found

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of the ref's entries, ascending."""
        return _numbers(self._folder(name))

    def entry(self, name: str, number: int) -> RefValue:
        """Return one entry of the ref.

        Raises:
            NotFoundError: It is not there.
            CorruptStoreError: It cannot be read.
        """
        return _read_entry(self._folder(name) / str(number), number)

    def names(self, kind: str) -> list[str]:
        """Return the names of the refs of one kind, sorted, those that are deleted included."""
        folder = self.folder / kind
        refuse_link(folder)
        if kind != "remotes":
            return _names(folder)
        return [f"{remote}/{branch}" for remote in _names(folder) for branch in _names(folder / remote)]

    def all_names(self) -> list[str]:
        """Return the names of all refs, deleted ones included, as in ``heads/main``, sorted."""
        return [f"{kind}/{name}" for kind in sorted(KINDS) for name in self.names(kind)]

    def expired(self, name: str, before: str) -> list[int]:
        """Return the numbers of the oldest entries that something newer took the place of before a time.

        Args:
            name: The ref.
            before: The time, RFC 3339 in UTC with seconds.

        Raises:
            CorruptStoreError: An entry cannot be read.
        """
        entries = self.log(name)[::-1]
        found = []
        for entry, successor in itertools.pairwise(entries):
            if successor.time >= before:
                break
            found.append(entry.number)
        return found

    def prune(self, name: str, numbers: Sequence[int]) -> None:
        """Remove the oldest entries of a ref, which ``expired`` returned; the newest entry always stays."""
        if not numbers:
            return
        folder = self._folder(name)
        disk.write_exclusive(folder / f"{numbers[-1]}.pruned", [])
        earlier = [folder / f"{number}.pruned" for number in pruned_marks(folder) if number < numbers[-1]]
        for path in [*(folder / str(number) for number in numbers), *earlier]:
            # Two collections at once remove the same ones.
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(path)
        disk.sync_directory(folder)

    def newest_numbers(self) -> dict[str, int]:
        """Return the number of the newest entry of every ref, without reading it; 0 for one without entries."""
        return {name: max(self.numbers(name), default=0) for name in self.all_names()}

    def list(self, kind: str) -> dict[str, RefValue]:
        """Return the refs of one kind (one of ``KINDS``) that are not deleted, sorted by name.

        Raises:
            CorruptStoreError: The newest entry of one of them cannot be read.
        """
        values = {name: self._current(f"{kind}/{name}") for name in self.names(kind)}
        return {name: value for name, value in values.items() if value is not None}

    def _current(self, name: str) -> RefValue | None:
        value = self._newest(name)
        return value if value is not None and value.digest is not None else None

    def _append(self, name: str, digest: str | None, expected: str | None) -> RefValue:
        newest = self._newest(name)
        found = None if newest is None else newest.digest
        if found != expected:
            raise _moved(name, found, expected)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        value = RefValue(1 if newest is None else newest.number + 1, digest, now)
        folder = self._folder(name)
        disk.make_directory(folder)
        if value.number == 1:
            # Another process may have made the folder and not synced it yet.
            disk.sync_directory(folder.parent)
        if not disk.write_exclusive(folder / str(value.number), [build_entry(value.digest, value.time)]):
            raise _moved(name, "something newer", expected)
        return value

    def _newest(self, name: str) -> RefValue | None:
        folder = self._folder(name)
        numbers = _numbers(folder)
        if not numbers:
            return None
        try:
            return _read_entry(folder / str(numbers[-1]), numbers[-1])
        except NotFoundError:
            # Old entries may be pruned once there is a newer one: look again. The newest is never pruned.
            return self._newest(name)

    def _folder(self, name: str) -> Path:
        kind, _, rest = name.partition("/")
        if kind not in KINDS:
            raise StoreError(f"{name[:120]!r} is not a ref: it must start with one of {', '.join(KINDS)} and a slash.")
        names = rest.partition("/")[::2] if kind == "remotes" else (rest,)
        folder = self.folder / kind
        refuse_link(folder)
        for part in names:
            folder /= check_ref(part)
            refuse_link(folder)
        return folder


def retry_busy(attempt: Callable[[], T], *, patience: float = 60.0) -> T:
    """Return what ``attempt`` returns, calling it again while it loses against others.

    Args:
        attempt: Reads a ref, computes and moves it; a fresh call must start from what the ref names by then.
        patience: Seconds after which the ``BusyError`` of a failed attempt is passed on.
    """
    deadline = time.monotonic() + patience
    pause = 0.001
    while True:
        try:
            return attempt()
        except BusyError:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause * random.random())  # noqa: S311  spreads the tries out
        pause = min(2 * pause, 0.2)


def check_ref(name: str) -> str:
    """Return ``name`` if a branch or a tag can have it.

    Letters, digits and single ``.``, ``_`` or ``-`` between them, at most 100 characters, not digits only (that is a
    version). These names are also safe as file names and as names in an OCI registry.

    Raises:
        StoreError: It cannot.

    >>> check_ref("release-1.0")
    'release-1.0'
    >>> check_ref("../main")
    Traceback (most recent call last):
    skillpack_store.errors.StoreError: '../main' cannot be the name of a branch or tag.
    """
    if _is_name(name):
        return name
    raise StoreError(
        f"{name[:120]!r} cannot be the name of a branch or tag.",
        hint="Use letters and digits with single dots, dashes or underscores between them, such as release-1.0; "
        "not digits only, not HEAD.",
    )


def _is_name(name: str) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and len(name) <= _NAME_LIMIT
        and not name.isdigit()
        # A device name stays one with any extension on Windows.
        and _RESERVED.fullmatch(name.lower().split(".")[0]) is None
    )


def _names(folder: Path) -> list[str]:
    return sorted(filter(_is_name, os.listdir(folder))) if folder.is_dir() else []  # noqa: PTH208  fast


def _numbers(folder: Path) -> list[int]:
    try:
        # Names alone: a branch has an entry for each of its commits.
        return sorted(int(name) for name in os.listdir(folder) if _NUMBER.fullmatch(name))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def pruned_marks(folder: Path) -> list[int]:
    """Return the numbers up to which entries were pruned, ascending; the last one counts."""
    names = (_PRUNED.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in names if match is not None)


def build_entry(digest: str | None, time: str, write: str = "") -> bytes:
    """Return an entry of a ref as it is kept.

    Args:
        digest: What the ref names; None for nothing.
        time: When, RFC 3339 in UTC.
        write: What tells one attempt to write it from another, where answers may get lost.
    """
    document = {"digest": digest, "time": time, **({"write": write} if write else {})}
    check = digest_of(canonical_json(document)).removeprefix("sha256:")[:_CHECK_LENGTH]
    return canonical_json({**document, "check": check})


def parse_entry(data: bytes) -> tuple[str | None, str]:
    """Return what an entry of a ref names, and since when.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is damaged.
    """
    document = parse_json(data, limit=ENTRY_LIMIT)
    digest = None if document["digest"] is None else parse_digest(document["digest"])
    time = str(document["time"])
    # Entries of the first version had no check value.
    if document.keys() - {"digest", "time"} and data != build_entry(digest, time, str(document.get("write", ""))):
        raise ValueError("its check value does not fit")
    return digest, time


def _read_entry(path: Path, number: int) -> RefValue:
    try:
        return RefValue(number, *parse_entry(read_small(path, ENTRY_LIMIT)))
    except FileNotFoundError:
        raise NotFoundError(f"The ref entry {path} is gone.") from None
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EINVAL, errno.EISDIR}:
            raise
        raise CorruptStoreError(
            f"The ref entry {path} is not a regular file.", hint="Remove it; nothing of a store is a link or a device."
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptStoreError(
            f"The ref entry {path} is damaged: {error}.",
            hint=f"Restore it from a copy of the store, or move it away to go back to the entry before {number}.",
        ) from error


def _moved(name: str, found: str | None, expected: str | None) -> BusyError:
    return BusyError(
        f"{name} was moved by somebody else: it names {found or 'nothing'}, expected was {expected or 'nothing'}.",
        hint="Look at what changed, then try again.",
    )
