r"""Task arithmetic: the weighted sum of the deltas.

Ilharco et al., Editing Models with Task Arithmetic, arXiv:2212.04089: theta = theta_0 + lambda sum_t w_t tau_t.
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
class Sum:
    """The weighted sum.

    Attributes:
        scale: lambda, a factor of all.
    """

    name: ClassVar[str] = "sum"
    ordered: ClassVar[bool] = False
    scale: float = 1.0

    def coefficients(self, name: str, sources: Sequence[Source], weights: Weights, layers: int) -> Weights:
        """See `Linear`."""
        del name, sources, layers
        return [self.scale * weight for weight in weights]

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        factors = self.coefficients(name, deltas.sources, weights, deltas.layers)
        return mapped(deltas, lambda pieces: weighted_sum(pieces, factors))
