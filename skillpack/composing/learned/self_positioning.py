"""Self Positioning: the best place between the skills, found by gradient descent on answered examples of all tasks.

Li et al., "Improving General Text Embedding Model: Tackling Task Conflict and Data Imbalance through Model Merging",
2024 (arXiv 2410.15035).
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
class SelfPositioning:
    """theta = theta_0 + s sum_k a_k tau_k, the a_k positive with sum 1; s and all a_k are learned.

    The paper looks for the position in the space that interpolates the task vectors, by stochastic gradient descent on
    a small sample of all tasks; its loss is that of text embeddings. Here it is the cross-entropy of what the model
    predicts, and positions begin in the middle, with a scale such that all skills have weight 1 / their number.

    Attributes:
        rate: of gradient descent.
        momentum: of it.
        scale: the s to begin with.
    """

    name: ClassVar[str] = "self-positioning"
    labelled: ClassVar[bool] = True

    rate: float = 0.1
    momentum: float = 0.9
    scale: float = 1.0

    def learn(self, live: LiveSum, examples: Examples, steps: int, progress: Progress) -> Fitted:
        """Learn the position; see `fit`."""
        weighting = Position(live, self.scale)
        optimiser = torch.optim.SGD(weighting.parameters, lr=self.rate, momentum=self.momentum)
        return fit(live, examples, weighting, optimiser, steps=steps, progress=progress)


class Position:
    """Shares of the skills, which sum to 1, and how far to go."""

    def __init__(self, live: LiveSum, scale: float) -> None:
        self._shape = len(live.spots), len(live.spots[0].deltas)
        self._logits = torch.zeros(self._shape[1], requires_grad=True)
        self._scale = torch.tensor(float(scale), requires_grad=True)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """See `Weighting`."""
        return [self._logits, self._scale]

    def weights(self) -> torch.Tensor:
        """See `Weighting`."""
        return (self._scale * self._logits.softmax(0)).expand(self._shape)
