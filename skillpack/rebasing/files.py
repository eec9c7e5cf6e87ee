"""A skill's changes to tokenizer, template and config files, where the new base may have changed the same files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import zstandard

from skillpack.companions import FileChange, apply, change_between, combine
from skillpack.errors import ConflictError, UsageError, WrongBaseError
from skillpack.manifest import CodedFile
from skillpack.rebasing.moves import NEEDS_OLD

if TYPE_CHECKING:
    from skillpack.checkpoint import Checkpoint
    from skillpack.rebasing.bases import Bases
    from skillpack.skill import Skill


class MovedFile(NamedTuple):
    """A changed file as it is on the new base.

    Attributes:
        entry: as in the manifest.
        content: the compressed content.
    """

    entry: CodedFile
    content: bytes


def moved_files(skill: Skill, bases: Bases) -> list[MovedFile]:
    """The skill's changes for the files of the new base, sorted by path; what that base has by itself is left out.

    Raises:
        ConflictError: skill and new base set the same place to different content; names it.
        UsageError: the old base has to be known to tell.
    """
    moved = []
    for entry, coded, change in zip(skill.manifest.files, skill.coded_files(), skill.file_changes(), strict=True):
        found = _moved(skill.name, change, bases)
        if found == change:
            moved.append(MovedFile(entry, coded))
        elif found is not None:
            packed = zstandard.ZstdCompressor(level=19).compress(found.content)
            moved.append(MovedFile(CodedFile(found.path, found.kind, len(found.content), len(packed)), packed))
    return moved


def _moved(skill: str, change: FileChange, bases: Bases) -> FileChange | None:
    new = _read(bases.new, change.path)
    if bases.old is None:
        if change.kind == "whole" and new in {None, change.content}:
            return change
        raise UsageError(
            f"Skill {skill} changes {change.path}, and whether the new base changed it too cannot be told",
            hint=NEEDS_OLD,
        )
    old = _read(bases.old, change.path)
    theirs = _between(change.path, old, new)
    if theirs is None:
        return change
    return _merged(skill, change, theirs, old, new)


def _merged(
    skill: str, change: FileChange, theirs: FileChange | None, old: bytes | None, new: bytes | None
) -> FileChange | None:
    """What is left to change once the new base's own change is made."""
    if new is None:
        raise WrongBaseError(f"Skill {skill} changes {change.path}, which the new base does not have")
    try:
        (both,) = combine({skill: [change], "the new base": [theirs] if theirs else []})
    except ConflictError as error:
        raise ConflictError(
            f"Skill {skill} and the new base both changed {error.place}, to different content",
            place=error.place,
            hint="Fine-tune again on the new base, or give the new base the file of the old one.",
        ) from error
    result = apply(both, old)
    return change_between(change.path, new, result)


def _between(path: str, old: bytes | None, new: bytes | None) -> FileChange | None:
    """What the new base changed; None if the file means the same."""
    if old == new:
        return None
    if old is None or new is None:
        return FileChange(path, "whole", new or b"")
    return change_between(path, old, new)


def _read(base: Checkpoint, path: str) -> bytes | None:
    file = base.companions.get(path)
    return None if file is None else file.read_bytes()
