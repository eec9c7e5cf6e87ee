"""A plain model folder with skills in it, which nothing of ours manages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack.errors import UsageError
from skillpack.installing.new_folder import write_plain
from skillpack.installing.os_errors import explained
from skillpack.interop.exporting import built_beside, new_place
from skillpack.library import open_wanted
from skillpack.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.summaries import StoreLike


@dataclass(frozen=True)
class MergedExport:
    """A model that was written.

    Attributes:
        folder: with the model.
        skills: label and weight of each skill in it, such as ("math@3", 0.5).
        written: relative paths of the files that differ from the base's.
        nbytes: bytes of all files.
    """

    folder: Path
    skills: tuple[tuple[str, float], ...]
    written: tuple[str, ...]
    nbytes: int


def export_merged(
    skills: Sequence[str] | str,
    folder: str | Path,
    base: str | Path,
    *,
    force: bool = False,
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> MergedExport:
    """Write a model with skills as a plain folder: the files that an install writes, and nothing to take it back.

    Args:
        skills: one or several addresses, each with an optional weight: ``math``, ``math@3=0.7``.
        folder: new folder for the model.
        base: model folder or Hub id. Skills that are installed on the folder already are in the result too.
        force: also on another base than a skill's own.
        store: where the skills are.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        UsageError: the folder is not empty or within the base.
        WrongBaseError, ConflictError, DamagedSkillError, ModifiedFolderError: see `skillpack.install`.
        NotFoundError: there is no such skill.
        NotTrustedError: the policy requires a signature and none of a skill's counts.
        NoSpaceError: the disk is too small.
    """
    target = new_place(folder)
    wanted = open_wanted(skills, store=store, branch=branch)
    if target.resolve().is_relative_to(_resolved(base)):
        raise UsageError(f"{folder} is within {base}", hint="Choose a place outside of it.")
    with explained(target.parent), built_beside(target) as room:
        written, nbytes = write_plain(wanted, base, room, force=force, progress=progress)
    named = tuple((found.label, found.weight) for found in wanted)
    return MergedExport(target, named, tuple(written), nbytes)


def _resolved(base: str | Path) -> Path:
    from pathlib import Path

    return Path(base).expanduser().resolve()
