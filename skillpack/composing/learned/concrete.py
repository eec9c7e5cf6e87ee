"""Concrete subspace: one mask for all skills, learned so that the masked sum is sure of what it says.

Tang et al., "Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion", 2023 (arXiv
2312.06173): Concrete Task Arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import torch

from skillpack.composing.learned.fitting import passes
from skillpack.composing.learned.masking import Masked
from skillpack.progress import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.learned.examples import Examples
    from skillpack.composing.learned.live import LiveSum
    from skillpack.progress import Progress

_EDGE: Final = 1e-6
"""How far uniform numbers stay from 0 and 1, where their logit is infinite."""


class ConcreteMask(Masked):
    """`Masked` under the name of its method."""

    name: ClassVar[str] = "concrete"


class FittedMask(NamedTuple):
    """What came out.

    Attributes:
        logits: of each spot's mask, fp32 in its shape.
        losses: at each step before it was taken, nats per prediction, summed over the tasks.
    """

    logits: list[torch.Tensor]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Concrete:
    """theta = theta_0 + lambda sum_k m * tau_k with a mask m that is learned on entropy.

    In a step the mask is drawn anew from a relaxed Bernoulli distribution (binary Concrete): with u uniform,
    m = sigmoid((log u - log (1 - u) + x) / T), divided by its mean in each tensor so that the size of the sum stays.
    The logits x begin at 0 and are learned with Adam. What is composed has the mask without noise, sigmoid(x / T)
    over its mean, or with `discrete` the entries with x > 0.

    Attributes:
        rate: of Adam.
        temperature: T.
        scale: lambda.
        discrete: keep or drop each entry.
        seed: of the noise.
    """

    name: ClassVar[str] = "concrete"
    labelled: ClassVar[bool] = False

    rate: float = 1e-3
    temperature: float = 0.5
    scale: float = 0.3
    discrete: bool = False
    seed: int = 0

    def learn(self, live: LiveSum, examples: Examples, steps: int, progress: Progress) -> FittedMask:
        """Learn the logits. Memory besides the model: five fp32 numbers for each weight that skills change.

        Raises:
            NotFiniteError: the model predicts NaN or infinity.
        """
        stage = Stage(progress, "learning the mask", steps * live.nbytes)
        logits = [torch.zeros(spot.base.shape, device=live.device, requires_grad=True) for spot in live.spots]
        optimiser = torch.optim.Adam(logits, lr=self.rate)
        losses = []
        for step in range(steps):
            for number, each in enumerate(logits):
                with torch.no_grad():
                    live.write(number, self._drawn(each, step, number) * self._summed(live, number))
            found = [torch.zeros_like(each) for each in logits]

            def take(number: int, gradient: torch.Tensor, found: list[torch.Tensor] = found) -> None:
                found[number] += gradient * self._summed(live, number)

            losses.append(passes(live, examples.draw(), take))
            optimiser.zero_grad()
            for number, each in enumerate(logits):
                self._drawn(each, step, number).backward(found[number])  # type: ignore[no-untyped-call]
            optimiser.step()
            stage.advance(live.nbytes)
        return FittedMask([each.detach() for each in logits], tuple(losses))

    def factors(self, logits: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The mask of each spot without noise: fp32, its mean 1."""
        if self.discrete:
            return [_rescaled((each > 0).float()) for each in logits]
        return [_rescaled((each / self.temperature).sigmoid()) for each in logits]

    def start_weights(self, live: LiveSum) -> torch.Tensor:
        """The weights that learning begins with, of shape (tensors, skills)."""
        return torch.full((len(live.spots), len(live.spots[0].deltas)), self.scale)

    def _drawn(self, logits: torch.Tensor, step: int, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(((self.seed << 20) + step << 20) + number)
        uniform = torch.rand(logits.shape, generator=generator).clamp_(_EDGE, 1 - _EDGE).to(logits.device)
        return _rescaled(((uniform.logit() + logits) / self.temperature).sigmoid())

    def _summed(self, live: LiveSum, number: int) -> torch.Tensor:
        deltas = [delta for delta in live.spots[number].deltas if delta is not None]
        return self.scale * torch.stack([delta.values() for delta in deltas]).sum(0)


def _rescaled(mask: torch.Tensor) -> torch.Tensor:
    """A mask over its mean; one that drops everything stays so."""
    mean = mask.mean()
    return mask / mean if bool(mean.detach()) else mask
