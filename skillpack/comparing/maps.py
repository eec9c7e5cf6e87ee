"""What heat maps of a comparison show: three figures, block of layers by block of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skillpack.comparing.comparison import CompareReport, Matrix, Pair
    from skillpack.comparing.measures import Figures


@dataclass(frozen=True)
class Map:
    """A figure that is mapped.

    Attributes:
        name: what it is called; in parentheses, the column of the table.
        value: the figure of two skills in one place, -1 to 1 or 0 to 1; None where there is nothing to compare.
        limits: figures from which on a strip of characters has its four shades.
        signed: it can be below 0.
    """

    name: str
    value: Callable[[Figures], float | None]
    limits: tuple[float, float, float, float]
    signed: bool = False

    def matrix(self, report: CompareReport) -> Matrix:
        """All skills with all; None for a skill with itself, which says nothing."""
        own = report.matrix(lambda pair: self.value(pair.total), 0.0)
        return tuple(
            tuple(None if row == column else value for column, value in enumerate(values))
            for row, values in enumerate(own)
        )

    def along(self, pair: Pair, blocks: Sequence[str]) -> list[float | None]:
        """The figure of a pair in these blocks of layers."""
        figures = {place.name: place.figures for place in pair.layers}
        return [self.value(figures[block]) if block in figures else None for block in blocks]


def _overlap(figures: Figures) -> float | None:
    if figures.left_overlap is None or figures.right_overlap is None:
        return None
    return (figures.left_overlap + figures.right_overlap) / 2


MAPS: Final = (
    Map("cosine", lambda figures: figures.cosine, (0.02, 0.1, 0.3, 0.6), signed=True),
    # Chance is 50 %: what has nothing in common gets the third shade, and what pulls apart the fourth.
    Map("sign conflict (outvoted)", lambda figures: figures.weighted_conflict, (0.2, 0.35, 0.45, 0.55)),
    Map("subspace overlap (directions)", _overlap, (0.02, 0.1, 0.3, 0.6)),
)


def blocks_of(report: CompareReport) -> list[str]:
    """Names of all blocks of layers that any of the skills changes, in the order of the model."""
    names = {place.name for pair in report.pairs for place in pair.layers} - {"rest"}
    return sorted(names, key=_in_order)


def _in_order(block: str) -> tuple[str, int]:
    stem, _, number = block.rpartition(".")
    return (stem, int(number)) if number.isdecimal() else (block, -1)
