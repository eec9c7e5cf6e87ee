"""The weighted mean of the deltas, which is that of the fine-tunes' weights: model soups and checkpoint averaging.

Wortsman et al., Model soups, arXiv:2203.05482 (the uniform soup, where all weights are the same).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from skillpack.composing.elementwise import mapped, weighted_sum
from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.protocol import Deltas, Source, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Average:
    """The mean: sum of w_t tau_t, divided by the sum of w_t."""

    name: ClassVar[str] = "average"
    ordered: ClassVar[bool] = False

    def coefficients(self, name: str, sources: Sequence[Source], weights: Weights, layers: int) -> Weights:
        """See `Linear`.

        Raises:
            UsageError: the weights sum up to zero.
        """
        del sources, layers
        total = sum(weights)
        if not total:
            raise UsageError(
                f"The weights for tensor {name} sum up to zero, so that there is no mean", hint="Give other weights."
            )
        return [weight / total for weight in weights]

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        factors = self.coefficients(name, deltas.sources, weights, deltas.layers)
        return mapped(deltas, lambda pieces: weighted_sum(pieces, factors))
