"""Refs: names for digests, with their history.

A ref is a folder of numbered entries, ``refs/<kind>/<name>/<n>``. The highest number is the ref, the rest its log.
A new entry is created with the next number by a hard link, which fails if somebody else created it first: that is the
compare-and-swap, and it needs no lock. Deletion is an entry without a digest.
"""

from __future__ import annotations

import errno
import random
import re
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from skillpack_store import disk
from skillpack_store.descriptors import canonical_json, parse_digest, parse_json
from skillpack_store.errors import BusyError, CorruptStoreError, NotFoundError, StoreError
from skillpack_store.reading import read_small, refuse_link

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["RefStore", "RefValue", "check_ref", "retry_busy"]

T = TypeVar("T")

KINDS = ("heads", "tags", "referrers")
_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_NAME_LIMIT = 100  # characters
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_ENTRY_LIMIT = 4096  # bytes
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
        value = self._newest(name)
        return value if value is not None and value.digest is not None else None

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
        """Return all entries of the ref, newest first."""
        folder = self._folder(name)
        return [_read_entry(folder / str(number), number) for number in reversed(_numbers(folder))]

    def list(self, kind: str) -> dict[str, RefValue]:
        """Return the refs of one kind (``heads``, ``tags`` or ``referrers``) that are not deleted, sorted by name.

        Raises:
            CorruptStoreError: The newest entry of one of them cannot be read.
        """
        folder = self.folder / kind
        refuse_link(folder)
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        values = {name: self.read(f"{kind}/{name}") for name in names if _is_name(name)}
        return {name: value for name, value in values.items() if value is not None}

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
        entry = canonical_json({"digest": value.digest, "time": value.time})
        if not disk.write_exclusive(folder / str(value.number), [entry]):
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
        folder = self.folder / kind / check_ref(rest)
        for part in (folder.parent, folder):
            refuse_link(part)
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


def _numbers(folder: Path) -> list[int]:
    try:
        return sorted(int(path.name) for path in folder.iterdir() if _NUMBER.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_entry(path: Path, number: int) -> RefValue:
    try:
        document = parse_json(read_small(path, _ENTRY_LIMIT), limit=_ENTRY_LIMIT)
        digest = None if document["digest"] is None else parse_digest(document["digest"])
        return RefValue(number, digest, str(document["time"]))
    except FileNotFoundError:
        raise NotFoundError(f"The ref entry {path} is gone.") from None
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EINVAL}:
            raise
        raise CorruptStoreError(
            f"The ref entry {path} is not a regular file.", hint="Remove it; nothing of a store is a link or a device."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptStoreError(
            f"The ref entry {path} is damaged: {error}.",
            hint=f"Restore it from a copy of the store, or move it away to go back to the entry before {number}.",
        ) from error


def _moved(name: str, found: str | None, expected: str | None) -> BusyError:
    return BusyError(
        f"{name} was moved by somebody else: it names {found or 'nothing'}, expected was {expected or 'nothing'}.",
        hint="Look at what changed, then try again.",
    )
