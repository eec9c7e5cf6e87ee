r"""TIES: trim, elect a sign, and take the mean of those that have it.

Yadav et al., TIES-Merging, arXiv:2306.01708, algorithm 1. Each task vector keeps the `density` largest of its numbers;
gamma = sgn(sum_t tau_t); the merged number is the mean of those tau_t that have the sign gamma, times lambda. Weights
multiply the trimmed vectors before the election, and the mean is the weighted one; with weights of 1 that is the paper.

The paper trims each task vector as a whole. mergekit trims each tensor for itself: `scope="tensor"`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from skillpack.composing.checks import check_choice, check_share
from skillpack.composing.elementwise import elected_sum, mapped
from skillpack.composing.protocol import parts_of
from skillpack.composing.selection import QuantileSurvey, kept, kth_largest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.protocol import Deltas, Source, Survey, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Ties:
    """TIES-Merging.

    Attributes:
        density: share of the numbers that trimming keeps; the paper's k is 20 %.
        scope: of a quantile: the whole model, or each tensor.
        scale: lambda.
        thresholds: magnitudes from which numbers are kept, found by a survey.
    """

    name: ClassVar[str] = "ties"
    ordered: ClassVar[bool] = False
    density: float = 0.2
    scope: Literal["model", "tensor"] = "model"
    scale: float = 1.0
    thresholds: tuple[float, ...] | None = field(default=None, repr=False, metadata={"recipe": False})
    bins: tuple[tuple[int, int], ...] | None = field(default=None, repr=False, metadata={"recipe": False})

    def __post_init__(self) -> None:
        check_share(self.name, "density", self.density)
        check_choice(self.name, "scope", self.scope, ("model", "tensor"))

    def survey(self, sources: Sequence[Source]) -> Survey | None:
        """See `Surveying`: two rounds for the exact quantile of each whole skill."""
        if self.scope == "tensor" or self.thresholds is not None:
            return None
        return QuantileSurvey(
            len(sources),
            self.density,
            values=lambda pieces, _: pieces,
            settle=lambda thresholds: replace(self, thresholds=thresholds),
            again=lambda bins: replace(self, bins=bins),
            bins=self.bins,
        )

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        del name
        thresholds = self.thresholds or [self._threshold(delta) for delta in deltas]
        scale = np.float32(self.scale)

        def merged(pieces: list[Floats]) -> Floats:
            trimmed = [
                np.where(np.abs(piece) >= np.float32(threshold), piece, np.float32(0))
                for piece, threshold in zip(pieces, thresholds, strict=True)
            ]
            return scale * elected_sum(trimmed, weights, mean=True)

        return mapped(deltas, merged)

    def _threshold(self, delta: Floats) -> float:
        return kth_largest(lambda: parts_of(delta), [kept(delta.size, self.density)])[0]
