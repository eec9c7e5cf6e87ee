"""What has to hold before a file of a model folder is moved."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from skillpack.errors import (
    ConflictError,
    DamagedCheckpointError,
    ModifiedFolderError,
    ReadOnlyError,
    listing,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from skillpack.installing.model_folder import ModelFolder
    from skillpack.installing.receipt import FileRecord, Receipt


def refuse_modified(folder: ModelFolder, receipt: Receipt | None) -> None:
    """Check the files of a managed model against its receipt.

    A file that an install wrote and that is gone is no obstacle: nobody's work is lost when it is written again.

    Raises:
        ModifiedFolderError: somebody changed files.
        DamagedCheckpointError: an original is gone or changed.
    """
    if receipt is None:
        return
    changed = []
    for path, record in receipt.expected().items():
        with contextlib.suppress(FileNotFoundError):
            if not record.matches(folder.root / path, thorough=False):
                changed.append(path)
    if changed:
        raise ModifiedFolderError(
            f"{folder.root}: changed by somebody else since skills were installed: {listing(changed)}",
            paths=changed,
            hint="Move your version of these files out of the folder, and run the command again.",
        )
    lost = [path for path, record in receipt.originals.items() if not _is_kept(folder.kept / path, record)]
    if lost:
        raise DamagedCheckpointError(
            f"Original files of the base in {folder.kept} are missing or damaged: {listing(lost)}",
            hint="Copy them there from the base.",
        )


def check_places(folder: ModelFolder, paths: Iterable[str]) -> None:
    """Whatever can be known to prevent the moves is found before the first one."""
    paths = list(paths)
    folder.refuse_linked_parents(paths)
    for path in paths:
        place = folder.root / path
        parents = [parent for parent in place.parents if parent.is_relative_to(folder.root)]
        if place.is_dir() or place.is_symlink() or any(parent.exists() and not parent.is_dir() for parent in parents):
            raise ConflictError(
                f"{place} cannot be written: something that is not a plain file is in its way",
                hint="Move it out of the folder.",
            )
        if not os.access(next(parent for parent in parents if parent.exists()), os.W_OK | os.X_OK):
            raise ReadOnlyError(f"{place} cannot be written", hint="Check the permissions, or use -o OUT.")


def _is_kept(path: Path, record: FileRecord) -> bool:
    try:
        return record.matches(path, thorough=False)
    except FileNotFoundError:
        return False
