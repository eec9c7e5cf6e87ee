"""The tokenizer, template and config files of an installed model."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from skillpack.companions import apply, combine
from skillpack.summing import refuse_scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.companions import FileChange
    from skillpack.installing.claims import Active

_SETTINGS = {"config.json", "generation_config.json"}
"""Settings hold at any weight; a vocabulary or a template is part of what cannot be scaled."""


class BaseFiles(Protocol):
    """Where the base's files are."""

    def read(self, path: str) -> bytes | None:
        """Content of a file by its relative path; None if there is none."""


def changed_files(base: BaseFiles, skills: Sequence[Active]) -> dict[str, bytes]:
    """Relative path -> content of the files that skills change.

    Raises:
        ConflictError: two skills set a place to different content, or a tokenizer file comes with a weight other
            than 1.
        WrongBaseError: a change does not fit the base's file.
    """
    return {change.path: apply(change, base.read(change.path)) for change in combined_changes(skills)}


def combined_changes(skills: Sequence[Active]) -> list[FileChange]:
    """The changes to files of several skills as one, sorted by path.

    Raises:
        ConflictError: two skills set a place to different content, or a tokenizer file comes with a weight other
            than 1.
    """
    changes = {}
    for active in skills:
        changes[active.skill.name] = active.skill.file_changes()
        for change in changes[active.skill.name]:
            if PurePosixPath(change.path).name not in _SETTINGS:
                reason = "it belongs to the tokenizer or is a template"
                refuse_scaling(change.path, active.skill.name, active.weight, reason, what="file")
    return combine(changes)
