"""Elastic weight consolidation.

Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017), equation 3: the loss of the new
task plus, for every task A before it, lambda / 2 * sum_i F_A,i (theta_i - theta*_A,i)^2, with F_A the diagonal of the
Fisher information at the weights theta*_A that the task ended with. F is the mean over samples of the squared gradient
of the log-likelihood of what the model itself predicts, drawn from its own distribution. The sum of the penalties is
quadratic in theta, so that two numbers for each weight hold all of them: sum_A F_A, and sum_A F_A theta*_A.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from benchmarks.continual_baselines.sequential import Sequential
from skillpack.live.predictions import predict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.continual_tasks import Course, Learned
    from skillpack.learning.training import FineTune
    from skillpack.texts import Sample

_FILE = "ewc.safetensors"


@dataclass
class Ewc(Sequential):
    """See the module.

    Attributes:
        strength: lambda.
        samples: that the Fisher information is estimated from.
    """

    name: ClassVar[str] = "EWC"
    strength: float = 1e3
    samples: int = 64
    _fisher: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)
    _pulled: dict[str, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return {"share": self.share, "strength": self.strength, "samples": self.samples}

    def _train(self, course: Course, before: Path, learned: Learned, folder: Path) -> None:
        known = load_file(before / _FILE) if (before / _FILE).is_file() else {}
        self._fisher = {name.removeprefix("fisher."): v for name, v in known.items() if name.startswith("fisher.")}
        self._pulled = {name.removeprefix("pulled."): v for name, v in known.items() if name.startswith("pulled.")}
        super()._train(course, before, learned, folder)
        tensors = {f"fisher.{name}": value for name, value in self._fisher.items()}
        save_file(tensors | {f"pulled.{name}": value for name, value in self._pulled.items()}, folder / _FILE)

    def loss(self, tuner: FineTune, batch: Sequence[Sample], place: int) -> torch.Tensor:
        """See `Sequential`."""
        return super().loss(tuner, batch, place) + self.strength / 2 * self.penalty(tuner.model)

    def penalty(self, model: torch.nn.Module) -> torch.Tensor:
        """sum_A sum_i F_A,i (theta_i - theta*_A,i)^2, but for the part that no weight changes."""
        terms = [
            (self._fisher[name] * weight.square() - 2 * self._pulled[name] * weight).sum()
            for name, weight in model.named_parameters()
            if name in self._fisher
        ]
        return torch.stack(terms).sum() if terms else torch.zeros(())

    def end(self, tuner: FineTune, course: Course, learned: Learned, folder: Path) -> None:
        """Add the Fisher information of the task that was learned."""
        del course, folder
        prefix = f"{tuner.model.base_model_prefix}."
        for name, fisher in diagonal_fisher(tuner, learned.task.training[: self.samples]).items():
            # A classifier's head is its task's own.
            if name.startswith(prefix) or tuner.model.can_generate():
                weight = tuner.model.get_parameter(name).detach()
                self._fisher[name] = self._fisher.get(name, 0) + fisher
                self._pulled[name] = self._pulled.get(name, 0) + fisher * weight


def diagonal_fisher(tuner: FineTune, samples: Sequence[Sample], seed: int = 0) -> dict[str, torch.Tensor]:
    """Mean over samples of the squared gradient of log p(y | x), y drawn from p; fp32 of each weight's shape.

    Args:
        tuner: the model.
        samples: one x each.
        seed: of the draws.
    """
    model: Any = tuner.model
    model.eval()
    random = torch.Generator().manual_seed(seed)
    found = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for sample in samples:
        logits = predict(model, tuner.encode([sample]))
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=random)
        model.zero_grad()
        logits.log_softmax(-1).gather(-1, drawn).sum().backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                found[name] += weight.grad.square() / len(samples)
    model.zero_grad()
    model.train()
    return found
