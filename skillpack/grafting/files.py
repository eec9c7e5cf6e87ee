"""The files that skills change: what of them a live model can take, and what is left to say about the rest."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any, Final

from skillpack.companions import apply, combine
from skillpack.errors import NotAppliedWarning, WrongBaseError, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from skillpack.companions import FileChange
    from skillpack.installing.claims import Active

_GENERATION: Final = "generation_config.json"


class Settings:
    """The generation config of a live model, which skills may change.

    Args:
        model: the live model.
        file: the base's generation_config.json, if it is at hand; otherwise what the model has is taken for it.
    """

    def __init__(self, model: torch.nn.Module, file: Path | None) -> None:
        self._model: Any = model
        self._file = file
        self._own: Any = None

    def with_skills(self, active: Sequence[Active]) -> tuple[Callable[[], None], list[str]]:
        """What sets the model's generation config to what skills make of it, and the files that cannot be applied.

        Raises:
            ConflictError: two skills set a place in a file to different content.
            DamagedSkillError: a change is malformed.
        """
        changes = combine({each.skill.name: each.skill.file_changes() for each in active})
        left = [change.path for change in changes if change.path != _GENERATION]
        mine = [change for change in changes if change.path == _GENERATION]
        if not mine:
            return self._set_own, left
        changed = self._changed(mine[0])
        if changed is None:
            return self._set_own, [*left, _GENERATION]
        return lambda: self._set(changed), left

    def _changed(self, change: FileChange) -> Any:
        from transformers import GenerationConfig

        own = self._own or getattr(self._model, "generation_config", None)
        if own is None:
            return None
        current = own.to_json_string(use_diff=True).encode() if self._file is None else self._file.read_bytes()
        try:
            return GenerationConfig.from_dict(json.loads(apply(change, current)))
        except (WrongBaseError, ValueError, TypeError):  # it says where it differs, which the warning will name
            return None

    def _set(self, changed: Any) -> None:
        self._own = self._own or self._model.generation_config
        self._model.generation_config = changed

    def _set_own(self) -> None:
        if self._own is not None:
            self._model.generation_config = self._own
            self._own = None


def warn_of_files(names: Sequence[str], paths: Sequence[str], level: int) -> None:
    """Say that files are not applied.

    Args:
        names: of skills that change them, and that this was not said of yet.
        paths: relative paths of the files.
        level: callers between here and the user's code.
    """
    if names:
        warnings.warn(
            f"A live model does not take the files that {listing(names)} also changes: {listing(paths)}. Open the "
            "tokenizer of a folder that the skill is installed in (skillpack install … -o FOLDER).",
            NotAppliedWarning,
            stacklevel=level,
        )
