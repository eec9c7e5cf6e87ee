"""What the figures of two skills mean, in plain words.

The limits come from `benchmarks/clashes.py`, which sums pairs of real skills and measures what is left of each; see
docs/report.md. Weights tell when a clash is likely, not when there is none: two skills with nothing in common can still
want different outputs for one input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from skillpack.comparing.measures import Figures

ALIKE: Final = 0.8
"""Cosine from which on two skills are nearly one."""
RELATED: Final = 0.1
"""Cosine from which on two skills have learned something in common."""
DROWNED: Final = 2.0
"""Ratio of the norms from which on the larger delta may drown the smaller one."""


@dataclass(frozen=True)
class Verdict:
    """Will two skills clash?

    Attributes:
        kind: "nothing in common", "apart", "related", "alike", "opposed" or "drowned".
        text: the same in plain words.
    """

    kind: str
    text: str


def judge(figures: Figures, norms: tuple[float, float], names: tuple[str, str]) -> Verdict:
    """What the figures of two skills mean for their sum.

    Args:
        figures: in all.
        norms: of both deltas.
        names: what the skills are called.
    """
    if figures.cosine is None or figures.conflict is None:
        return Verdict("nothing in common", "they change no weight in common; a sum keeps both as they are")
    if figures.cosine >= ALIKE:
        return Verdict("alike", "they are nearly the same skill; a sum does twice what each does")
    if figures.cosine <= -RELATED:
        return Verdict("opposed", "they pull in opposite directions; a sum undoes part of both")
    if figures.cosine >= RELATED:
        return Verdict("related", "they have learned something in common; a sum keeps it, and overdoes that part")
    small, large = sorted(zip(norms, names, strict=True))
    ratio = large[0] / small[0]
    if ratio >= DROWNED:
        text = f"the change of {large[1]} is {ratio:.1f} times as long; a sum keeps it, and may drown {small[1]}"
        return Verdict("drowned", f"{text}: give {large[1]} a smaller weight")
    return Verdict("apart", "the weights give no reason for a clash, though the outputs may still; measure the sum")
