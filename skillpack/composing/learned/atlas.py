"""aTLAS: a weight of its own for every block of every skill, learned from a few answered examples.

Zhang et al., "Knowledge Composition using Task Vectors with Learned Anisotropic Scaling", NeurIPS 2024 (arXiv
2407.02880).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from skillpack.composing.learned.fitting import Fitted, fit

if TYPE_CHECKING:
    from skillpack.composing.learned.examples import Examples
    from skillpack.composing.learned.live import LiveSum
    from skillpack.progress import Progress


@dataclass(frozen=True)
class Atlas:
    """theta = theta_0 + sum_k Lambda_k tau_k with Lambda_k block-diagonal, least cross-entropy.

    A block is a tensor of the base: a weight matrix, a bias, the gain of a norm. Coefficients are free, also to be
    negative, begin at 0, so that learning begins at the base, and are learned with AdamW at a rate that falls as a
    cosine does; the decay pulls them back to 0.

    Attributes:
        rate: of AdamW at the beginning.
        decay: weight decay of AdamW.
        start: where coefficients begin.
    """

    name: ClassVar[str] = "atlas"
    labelled: ClassVar[bool] = True

    rate: float = 0.1
    decay: float = 0.1
    start: float = 0.0

    def learn(self, live: LiveSum, examples: Examples, steps: int, progress: Progress) -> Fitted:
        """Learn the coefficients; see `fit`."""
        weighting = Free(live, self.start)
        optimiser = torch.optim.AdamW(weighting.parameters, lr=self.rate, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, steps))
        return fit(live, examples, weighting, optimiser, steps=steps, progress=progress, schedule=schedule)


class Free:
    """A coefficient for each tensor and skill, of any value."""

    def __init__(self, live: LiveSum, start: float) -> None:
        self._raw = torch.full((len(live.spots), len(live.spots[0].deltas)), start, requires_grad=True)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """See `Weighting`."""
        return [self._raw]

    def weights(self) -> torch.Tensor:
        """See `Weighting`."""
        # Not the leaf itself, which a backward pass would refuse to start from twice.
        return self._raw * 1.0
