r"""Consensus merging: of the summed delta, only what several tasks make use of.

Wang et al., Localizing Task Information for Improved Model Merging and Compression, arXiv:2405.07813, section 4:
m = 1 where sum_t m_t >= k, m_t being the TALL-masks of the tasks; tau = m * tau_MTL. Numbers that no task uses
(catastrophic weights) and that only one uses (selfish weights) go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from skillpack.composing.elementwise import mapped, scaled, weighted_sum
from skillpack.composing.methods.tall import check_threshold, tall_mask
from skillpack.errors import UsageError

if TYPE_CHECKING:
    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Consensus:
    """Consensus merging.

    Attributes:
        threshold: lambda of the masks.
        agree: k, how many tasks must use a number.
        scale: alpha, factor of the sum.
    """

    name: ClassVar[str] = "consensus"
    ordered: ClassVar[bool] = False
    threshold: float = 0.4
    agree: int = 2
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_threshold(self.name, self.threshold)
        if self.agree < 1:
            raise UsageError(f"consensus: agree={self.agree} is less than 1", hint="Try --option agree=2.")

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`.

        Raises:
            UsageError: more skills should agree than there are.
        """
        del name
        count = len(deltas.sources)
        if self.agree > count:
            skills = "1 skill" if count == 1 else f"{count} skills"
            raise UsageError(
                f"consensus: agree={self.agree} leaves nothing of {skills}",
                hint=f"Name {self.agree} skills or more, or write --option agree={count}.",
            )
        factors = [self.scale * weight for weight in weights]

        def merged(pieces: list[Floats]) -> Floats:
            shared = weighted_sum(pieces, factors)
            votes = sum(tall_mask(own, shared, self.threshold).astype(np.int32) for own in scaled(pieces, weights))
            return np.where(votes >= self.agree, shared, np.float32(0))

        return mapped(deltas, merged)
