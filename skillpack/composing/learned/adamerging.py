"""AdaMerging: weights that make the merged model sure of what it says, on texts without answers.

Yang et al., "AdaMerging: Adaptive Model Merging for Multi-Task Learning", ICLR 2024 (arXiv 2310.02575).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from skillpack.composing.learned.fitting import Fitted, fit

if TYPE_CHECKING:
    from skillpack.composing.learned.examples import Examples
    from skillpack.composing.learned.live import LiveSum
    from skillpack.progress import Progress

_WAY: Final = 0.5
"""How far a coefficient can go in all: the paper's 500 steps of at most 0.001."""


@dataclass(frozen=True)
class AdaMerging:
    """theta = theta_0 + sum_k lambda_k tau_k, the lambdas such that the sum of the tasks' mean entropies is least.

    Layer-wise, each tensor of the base has its own lambda for each skill (the paper's eq. 6); task-wise, each skill has
    one (eq. 5). They begin at 0.3, are kept between 0 and 1 as in the authors' code, and are learned with Adam.

    Attributes:
        layerwise: a coefficient for each tensor and skill.
        start: where coefficients begin.
        rate: of Adam; by default such that all steps together go as far as the paper's 500 of 0.001.
    """

    name: ClassVar[str] = "adamerging"
    labelled: ClassVar[bool] = False

    layerwise: bool = True
    start: float = 0.3
    rate: float | None = None

    def learn(self, live: LiveSum, examples: Examples, steps: int, progress: Progress) -> Fitted:
        """Learn the coefficients; see `fit`."""
        weighting = Clamped(live, start=self.start, layerwise=self.layerwise)
        rate = _WAY / max(1, steps) if self.rate is None else self.rate
        optimiser = torch.optim.Adam(weighting.parameters, lr=rate)
        return fit(live, examples, weighting, optimiser, steps=steps, progress=progress)

    def start_weights(self, live: LiveSum) -> Any:
        """The weights that learning begins with, of shape (tensors, skills)."""
        return Clamped(live, start=self.start, layerwise=self.layerwise).weights().detach()


class Clamped:
    """Coefficients between 0 and 1."""

    def __init__(self, live: LiveSum, *, start: float, layerwise: bool) -> None:
        self._shape = len(live.spots), len(live.spots[0].deltas)
        own = self._shape if layerwise else (1, self._shape[1])
        self._raw = torch.full(own, start, requires_grad=True)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """See `Weighting`."""
        return [self._raw]

    def weights(self) -> torch.Tensor:
        """See `Weighting`."""
        return self._raw.clamp(0, 1).expand(self._shape)
