"""How long work tells its caller how far it is; what to show is the caller's business."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then during long work."""

    def __call__(self, done: int, total: int, what: str) -> None:
        """Report progress.

        Args:
            done: bytes done of this stage of the work.
            total: bytes of this stage; 0 if unknown.
            what: the stage, in a few words; a new text begins a new stage.
        """


def silent(done: int, total: int, what: str) -> None:
    """Show nothing."""


class Stage:
    """Counts up to a stage's total and reports each step."""

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, total, 0
        progress(0, total, what)

    def advance(self, amount: int) -> None:
        """Report `amount` more bytes as done."""
        self._done = min(self._total, self._done + amount)
        self._progress(self._done, self._total, self._what)
