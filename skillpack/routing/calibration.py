"""What scores mean: where a method's measure lies on texts that are none of a skill's own.

The background is `background.txt`: a hundred prompts and texts of all kinds, languages and lengths, the same for
everybody. It is fixed, so what it says about one skill does not depend on the others.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

PASSED_OVER: Final = 0.95
"""Share of the background that no skill is to serve: its quantile is the least score of methods without examples."""
_TINY: Final = 1e-6


@cache
def background_texts() -> tuple[str, ...]:
    """The texts of the background."""
    content = Path(__file__).with_name("background.txt").read_text("utf-8")
    return tuple(text for text in content.strip().split("\n\n") if text)


class Background:
    """Scores of a method that knows no examples, in standard deviations above their mean on the background."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}

    def add(self, digest: str, found: torch.Tensor) -> float:
        """Get to know a skill; returns the score that only a few texts of the background have.

        Args:
            digest: of the skill.
            found: what the method measures on the background, fp32 of shape (texts,).
        """
        mean, deviation = float(found.mean()), max(float(found.std()), _TINY)
        self._known[digest] = mean, deviation
        return (float(found.quantile(PASSED_OVER)) - mean) / deviation

    def remove(self, digest: str) -> None:
        """Forget a skill."""
        del self._known[digest]

    def standardised(self, found: torch.Tensor, digests: Sequence[str]) -> torch.Tensor:
        """What was measured, as scores."""
        known = torch.tensor([self._known[digest] for digest in digests]).reshape(-1, 2)
        return (found - known[:, 0]) / known[:, 1]
