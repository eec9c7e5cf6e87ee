r"""Model Breadcrumbs: leave out the largest and the smallest changes of each tensor.

Davari and Belilovsky, Model Breadcrumbs, arXiv:2312.06795: theta = theta_0 + alpha sum_t m_t * tau_t, where a layer's
mask m leaves out the share beta of the smallest magnitudes and those above the percentile gamma. In the paper
beta = 85 % and gamma = 99.3 %; here, as in mergekit, `gamma` is the share of the largest (0.7 %) and `density` the
share that is kept (14.3 %), so that beta = 1 - density - gamma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from skillpack.composing.checks import check_share
from skillpack.composing.elementwise import mapped, weighted_sum
from skillpack.composing.protocol import parts_of
from skillpack.composing.selection import kth_largest

if TYPE_CHECKING:
    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Breadcrumbs:
    """Model Breadcrumbs.

    Attributes:
        density: share of a tensor's numbers that is kept.
        gamma: share of the largest that is left out; less where both shares together are more than all.
        scale: alpha.
    """

    name: ClassVar[str] = "breadcrumbs"
    ordered: ClassVar[bool] = False
    density: float = 0.143
    gamma: float = 0.007
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_share(self.name, "density", self.density)
        check_share(self.name, "gamma", self.gamma, zero=True)

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        del name
        bounds = [self._bounds(delta) for delta in deltas]
        factors = [self.scale * weight for weight in weights]

        def merged(pieces: list[Floats]) -> Floats:
            masked = []
            for piece, (low, high) in zip(pieces, bounds, strict=True):
                size = np.abs(piece)
                masked.append(np.where((size >= low) & (size <= high), piece, np.float32(0)))
            return weighted_sum(masked, factors)

        return mapped(deltas, merged)

    def _bounds(self, delta: Floats) -> tuple[np.float32, np.float32]:
        """The least and the largest magnitude that are kept."""
        middle = max(1, int(self.density * delta.size))
        top = min(int(self.gamma * delta.size), delta.size - middle)
        low, high = kth_largest(lambda: parts_of(delta), [top + middle, top + 1])
        return np.float32(low), np.float32(high)
