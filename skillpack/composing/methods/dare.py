r"""DARE: drop numbers at random and rescale the others, then add or elect.

Yu et al., Language Models are Super Mario, arXiv:2311.03099: with drop rate p and m ~ Bernoulli(p), the task vector
becomes (1 - m) * tau / (1 - p). What is left is merged by task arithmetic (`elect="sum"`) or by the sign election and
the disjoint mean of TIES (`elect="ties"`), in place of its trimming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from skillpack.composing.checks import check_choice, check_share
from skillpack.composing.elementwise import elected_sum, mapped, weighted_sum
from skillpack.composing.random_masks import RandomMask

if TYPE_CHECKING:
    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Dare:
    """Drop and rescale.

    Attributes:
        density: 1 - p, the share of the numbers that is kept; the paper tunes p between 0.1 and 0.9.
        elect: how the rest is merged.
        normalize: divide by the sum of the weights that agree; only with `elect="ties"`.
        scale: factor of all.
        seed: of the masks.
    """

    name: ClassVar[str] = "dare"
    ordered: ClassVar[bool] = False
    density: float = 0.5
    elect: Literal["sum", "ties"] = "sum"
    normalize: bool = True
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.name, "density", self.density)
        check_choice(self.name, "elect", self.elect, ("sum", "ties"))

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        masks = [RandomMask(self.seed, name, source.digest) for source in deltas.sources]
        rescaled, scale = np.float32(1 / self.density), np.float32(self.scale)

        def merged(pieces: list[Floats]) -> Floats:
            dropped = [
                np.where(mask.take(piece.size, self.density), piece * rescaled, np.float32(0))
                for piece, mask in zip(pieces, masks, strict=True)
            ]
            if self.elect == "sum":
                return scale * weighted_sum(dropped, weights)
            return scale * elected_sum(dropped, weights, mean=self.normalize)

        return mapped(deltas, merged)
