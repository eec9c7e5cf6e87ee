"""The skills of a model that is being served: checked against the base, and laid over it row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skillpack.checkpoint import open_checkpoint
from skillpack.grafting.base import LiveBase
from skillpack.grafting.overlay.engine import Overlay
from skillpack.grafting.places import find_places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from skillpack.serving.choices import Choice
    from skillpack.skill import Skill


class OverlaidSkills:
    """Skills beside the weights of a model; see `skillpack.serving.stepping.Resident`.

    Args:
        model: with the weights of its base, which stay as they are.
        source: where they come from, a folder or a Hub id; proves the base also of a model that computes in fp16.
    """

    def __init__(self, model: Any, source: str | Path) -> None:
        places = find_places(model)
        base = LiveBase(places, checkpoint=open_checkpoint(source))
        # Every prompt is read alone, so choices alternate from one forward pass to the next.
        self._overlay = Overlay(model, places, base, fold=False)

    def prepare(self, skill: Skill) -> Callable[[], None]:
        """Check and decode a skill; returns what makes it usable.

        Raises:
            WrongBaseError: it was packed from another base.
            ConflictError: it asks for what a live model cannot take.
        """
        prepared = self._overlay.prepare(skill)
        return lambda: self._overlay.attach(prepared)

    def unload(self, digest: str) -> None:
        """Forget a skill."""
        self._overlay.unload(digest)

    def check(self, choice: Choice) -> None:
        """Check that skills go together.

        Raises:
            ConflictError: they do not.
        """
        with self.rows([choice]):
            pass

    def rows(self, choices: Sequence[Choice]) -> AbstractContextManager[object]:
        """Within it, each row of a forward pass uses the skills of its own choice."""
        return self._overlay.rows(choices)
