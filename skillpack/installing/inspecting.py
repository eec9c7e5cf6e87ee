"""What is installed on a model folder, and whether its files are what the receipt says."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from skillpack.errors import BusyFolderError, ReportedError
from skillpack.installing.changes import reopened
from skillpack.installing.journal import recover, tidy
from skillpack.installing.lock import locked
from skillpack.installing.model_folder import KEPT, ModelFolder, find_folder
from skillpack.installing.os_errors import explained
from skillpack.progress import Stage, silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skillpack.installing.receipt import FileRecord, Receipt, SkillRecord
    from skillpack.progress import Progress


class Difference(NamedTuple):
    """Something that is not as the receipt says.

    Attributes:
        path: relative to the model folder; the name of a skill for a damaged skill.
        problem: what is the matter.
    """

    path: str
    problem: Literal["changed", "missing", "damaged skill"]


@dataclass(frozen=True)
class FolderStatus:
    """The state of a model folder.

    Attributes:
        folder: the model folder.
        managed: whether skills are installed.
        skills: the installed skills, sorted by digest.
        written: relative path -> record, of the files that installs wrote.
        originals: relative path -> record, of the base's files that are put aside, under their paths in the base.
        kept_in: where those are, relative to the folder.
        base_fingerprint: of the base; empty if the folder is not managed.
        written_bytes: bytes of `written`.
        kept_bytes: bytes of `originals`.
        tool: what wrote the receipt.
        verified: whether every file was hashed.
        differences: what is not as the receipt says.
        unfinished: an interrupted command is to be finished or undone, which could not be done now.
        recovered: an interrupted command was finished or undone by this call.
    """

    folder: Path
    managed: bool
    skills: tuple[SkillRecord, ...] = ()
    written: tuple[tuple[str, FileRecord], ...] = ()
    originals: tuple[tuple[str, FileRecord], ...] = ()
    kept_in: str = KEPT
    base_fingerprint: str = ""
    written_bytes: int = 0
    kept_bytes: int = 0
    tool: str = ""
    verified: bool = False
    differences: tuple[Difference, ...] = ()
    unfinished: bool = False
    recovered: bool = False


def status(model_dir: str | Path, *, verify: bool = False, progress: Progress = silent) -> FolderStatus:
    """What is installed on a model folder.

    An interrupted install or removal is finished or undone first, where the folder can be written and nobody else
    works on it.

    Args:
        model_dir: the model folder.
        verify: hash every file that an install wrote, every original and every kept skill; otherwise only files whose
            size or time has changed are hashed.
        progress: told about the bytes hashed.

    Raises:
        CheckpointError: there is no such folder.
        DamagedCheckpointError: the receipt makes no sense.
    """
    folder = find_folder(model_dir, in_place=False)
    with explained(folder.root):
        was_interrupted = folder.interrupted()
        if was_interrupted:
            _recover(folder)
        unfinished = folder.interrupted()
        receipt = folder.receipt()
        if receipt is None:
            return FolderStatus(
                folder.root, managed=False, unfinished=unfinished, recovered=was_interrupted > unfinished
            )
        return FolderStatus(
            folder=folder.root,
            managed=True,
            skills=receipt.skills,
            written=tuple(receipt.written.items()),
            originals=tuple(receipt.originals.items()),
            base_fingerprint=receipt.fingerprint,
            written_bytes=sum(record.size for record in receipt.written.values()),
            kept_bytes=sum(record.size for record in receipt.originals.values()),
            tool=receipt.tool,
            verified=verify,
            differences=tuple(_differences(folder, receipt, thorough=verify, progress=progress)),
            unfinished=unfinished,
            recovered=was_interrupted > unfinished,
        )


def _recover(folder: ModelFolder) -> None:
    with contextlib.suppress(BusyFolderError, OSError), locked(folder):
        try:
            recover(folder)
        finally:
            tidy(folder)


def _differences(folder: ModelFolder, receipt: Receipt, *, thorough: bool, progress: Progress) -> list[Difference]:
    checks = [(path, folder.root / path, record) for path, record in receipt.expected().items()]
    checks += [(f"{KEPT}/{path}", folder.kept / path, record) for path, record in receipt.originals.items()]
    stage = Stage(progress, "checking files", sum(record.size for _, _, record in checks) if thorough else 0)
    found = [
        Difference(name, problem)
        for name, path, record in checks
        if (problem := _problem(path, record, stage.advance, thorough=thorough)) is not None
    ]
    damaged = [record.name for record in receipt.skills if thorough and not _is_sound(folder, record)]
    return found + [Difference(name, "damaged skill") for name in damaged]


def _is_sound(folder: ModelFolder, record: SkillRecord) -> bool:
    try:
        reopened(folder, record)
    except ReportedError:
        return False
    return True


def _problem(
    path: Path, record: FileRecord, advance: Callable[[int], None], *, thorough: bool
) -> Literal["changed", "missing"] | None:
    try:
        return None if record.matches(path, thorough=thorough, progress=advance) else "changed"
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
