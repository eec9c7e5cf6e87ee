r"""Negation: what a fine-tune learned is taken out of the base, to remove a behaviour.

Ilharco et al., Editing Models with Task Arithmetic, arXiv:2212.04089, section 3: theta = theta_0 - lambda tau.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skillpack.composing.elementwise import mapped, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.protocol import Deltas, Source, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Negation:
    """The negative of the weighted sum.

    Attributes:
        scale: lambda; the paper chooses it on validation data.
    """

    name: ClassVar[str] = "negation"
    ordered: ClassVar[bool] = False
    scale: float = 1.0

    def coefficients(self, name: str, sources: Sequence[Source], weights: Weights, layers: int) -> Weights:
        """See `Linear`."""
        del name, sources, layers
        return [-self.scale * weight for weight in weights]

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        factors = self.coefficients(name, deltas.sources, weights, deltas.layers)
        return mapped(deltas, lambda pieces: weighted_sum(pieces, factors))
