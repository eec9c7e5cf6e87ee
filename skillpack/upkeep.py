"""The upkeep of a store: collect what nothing names, check all of it, say where its bytes are."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from skillpack.errors import UsageError
from skillpack.parts import parse_subset
from skillpack.progress import Progress, silent
from skillpack.settings import default_store
from skillpack.summaries import StoreLike, open_existing
from skillpack_store.collecting import Collected, collect_garbage, undo_collection
from skillpack_store.fsck import Checked, check_store
from skillpack_store.repository import Repository
from skillpack_store.statistics import StoreSizes, measure_store

__all__ = ["fsck", "gc", "stats"]


def gc(
    *,
    store: StoreLike = None,
    grace: timedelta = timedelta(days=14),
    trash_grace: timedelta = timedelta(days=7),
    expire: timedelta = timedelta(days=90),
    dry_run: bool = False,
    undo: bool = False,
) -> Collected:
    """Move what no branch, tag or log names to the trash, and delete what has been in the trash for long.

    Models on which skills are installed need nothing of it: they keep a copy of their skills.

    Args:
        store: where.
        grace: how long something is kept after it was last written or used again.
        trash_grace: how long the trash keeps it after that.
        expire: how long the logs of branches and tags keep old values.
        dry_run: change nothing; say what would be done.
        undo: instead, put everything in the trash back.

    Raises:
        CorruptStoreError: it is not known what is in use, because something that names it cannot be read.
        UsageError: a time is negative, or undo and dry_run are both set.
    """
    repository = open_existing(store)
    if min(grace, trash_grace, expire) < timedelta(0):
        raise UsageError("a time to keep things cannot be negative")
    if undo and dry_run:
        raise UsageError("there is no dry run of bringing things back")
    if undo:
        return Collected(dry_run=False, restored=undo_collection(repository))
    return collect_garbage(
        repository,
        grace=grace.total_seconds(),
        trash_grace=trash_grace.total_seconds(),
        expiry=expire.total_seconds(),
        dry_run=dry_run,
    )


def fsck(
    *,
    store: StoreLike = None,
    level: Literal["quick", "sizes", "full"] = "sizes",
    subset: str | None = None,
    quarantine: bool = False,
    progress: Progress = silent,
) -> Checked:
    """Look for everything that can be wrong with a store; nothing is deleted.

    Args:
        store: where; it may be too damaged to be opened otherwise.
        level: ``quick`` for the structure, ``sizes`` for that and the sizes of files, ``full`` to hash every byte.
        subset: ``1/5`` hashes the first of five parts only, with ``full``.
        quarantine: move damaged blobs to the folder ``quarantine``.
        progress: called during the work.

    Raises:
        NoStoreError: there is none.
        UsageError: `subset` makes no sense.
    """
    part = None if subset is None else parse_subset(subset)
    if part is not None and level != "full":
        raise UsageError("a part of the store can only be checked in full", hint="Add --full.")
    folder = store if isinstance(store, Repository) else Path(default_store() if store is None else store)
    return check_store(folder, level=level, subset=part, quarantine=quarantine, progress=progress)


def stats(*, store: StoreLike = None) -> StoreSizes:
    """Say where the bytes of a store are: by skill, shared, unreferenced, in the trash.

    Raises:
        NoStoreError: there is no store.
        CorruptStoreError: something that names blobs cannot be read.
    """
    return measure_store(open_existing(store))
