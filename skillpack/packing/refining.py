"""Learning the gains of low-rank columns from what the fine-tune predicts.

Columns that are left out take with them what they would have done, in every layer in the same sense, so that their
effects add up; the noise of the others averages out. A gain for each column that is there makes up for most of it. The
gains are found by a few steps of distillation (Hinton et al., arXiv:1503.02531): descent on KL(tuned || packed) with
Adam (Kingma and Ba, arXiv:1412.6980), where all else of the skill is fixed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from skillpack.codecs.lowrank import in_gain_units
from skillpack.codecs.matrix import matrix_shape
from skillpack.evaluating.scores import kl_gradient
from skillpack.live.models import open_model
from skillpack.live.precision import weight_gradients
from skillpack.live.predictions import predict
from skillpack.packing.divergence import pack_within
from skillpack.packing.planning import common_shape
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.evaluating.trials import Measured
    from skillpack.live.batches import Batch
    from skillpack.packing.divergence import Candidates
    from skillpack.packing.packer import Goal, Packed, Packer
    from skillpack.packing.planning import LossyPlan

_RATE: Final = 0.02
"""How far a gain moves in a step at first; falls to zero linearly."""
_MOMENTS: Final = 0.9, 0.95


class _Column:
    """A tensor whose columns have gains: its place in the live model, and what its weights are made of."""

    def __init__(self, plan: LossyPlan, step: float, weight: torch.nn.Parameter) -> None:
        found = plan.factors(step)
        self.usable = found is not None and found[0].shape[1] > 0
        if found is None:
            return
        self._plan, self._weight = plan, weight.detach()
        self._left, self._right = (torch.from_numpy(factor) for factor in found)
        self._rows = common_shape(plan.change)[0]
        self._shape = matrix_shape(common_shape(plan.change))
        self.gains = torch.ones(found[0].shape[1], requires_grad=True)

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Take the gradient with respect to the weight into account."""
        found = (self._left * (gradient[: self._rows].reshape(self._shape) @ self._right)).sum(0)
        self.gains.grad = found if self.gains.grad is None else self.gains.grad + found

    @torch.no_grad()
    def write(self) -> None:
        """Make the live weight what an install with these gains would write."""
        base, _ = self._plan.operands()
        if base is None:
            raise ValueError(f"tensor {self._plan.change.name} has no reference")
        delta = (self._left * self.gains) @ self._right.T
        start = torch.from_numpy(base.float32()).reshape(self._shape)
        self._weight[: self._rows] = (start + delta).reshape(self._weight[: self._rows].shape)

    def units(self) -> tuple[int, ...]:
        """The gains as a skill keeps them."""
        return in_gain_units(self.gains.detach().numpy().astype(np.float32))


def learned_gains(
    plans: Sequence[LossyPlan],
    step: float,
    packed: torch.nn.Module,
    tuned: torch.nn.Module,
    *,
    batches: Sequence[Batch],
    rounds: int,
    progress: Progress = silent,
) -> dict[str, tuple[int, ...]]:
    """Learn the gains of all low-rank columns.

    Args:
        plans: of the tensors that are approximated.
        step: with which they were coded.
        packed: the model with the skill, as `open_model` gives it; its weights are changed.
        tuned: the fine-tune.
        batches: what to learn from, by turns.
        rounds: steps of descent, each on one batch.
        progress: called during the work.

    Returns:
        Name of the tensor -> gains as `LowRank` has them.
    """
    weights = dict(packed.named_parameters())
    columns = {
        plan.change.name: _Column(plan, step, weights[plan.change.name])
        for plan in plans
        if plan.change.name in weights
    }
    columns = {name: column for name, column in columns.items() if column.usable}
    if not columns:
        return {}
    optimiser = torch.optim.Adam([column.gains for column in columns.values()], lr=_RATE, betas=_MOMENTS)
    slower = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: 1 - done / rounds)
    stage = Stage(progress, "refining", sum(batches[turn % len(batches)].nbytes for turn in range(rounds)))
    for turn in range(rounds):
        batch = batches[turn % len(batches)]
        _add_gradients(packed, tuned, batch, columns)
        optimiser.step()
        slower.step()
        optimiser.zero_grad()
        for column in columns.values():
            column.write()
        stage.advance(batch.nbytes)
    return {name: column.units() for name, column in columns.items()}


def measured_pack(
    packer: Packer, goal: Goal, candidates: Candidates, progress: Progress = silent
) -> tuple[Packed, Measured]:
    """Pack to a goal, measure what came out, and refine it if that is asked for and helps.

    Args:
        packer: of the delta.
        goal: what to achieve.
        candidates: texts to learn from and to measure with.
        progress: called during the work.

    Returns:
        The pack and what was measured of it.

    Raises:
        UsageError: the size or the divergence cannot be met.
    """

    def attempt(start: float | None = None) -> tuple[Packed, Measured]:
        if goal.max_kl is not None:
            return pack_within(packer, goal.max_kl, candidates.measure, start)
        packed = packer.pack()
        return packed, candidates.measure(packed)

    plain, found = attempt()
    if not goal.refine:
        return plain, found
    with candidates.installed(plain) as folder:
        model, trials = open_model(folder), candidates.trials
        packer.set_gains(
            learned_gains(
                packer.lossy, plain.step, model, trials.tuned, batches=trials.lessons, rounds=goal.refine,
                progress=progress,
            )
        )  # fmt: skip
    refined, better = attempt(plain.step)
    improved = refined.size < plain.size if goal.max_kl is not None else better.kl < found.kl
    (plain if improved else refined).payload.close()
    return (refined, better) if improved else (plain, found)


def _add_gradients(
    packed: torch.nn.Module, tuned: torch.nn.Module, batch: Batch, columns: Mapping[str, _Column]
) -> None:
    def sink(name: str, gradient: torch.Tensor) -> None:
        if name in columns:
            columns[name].add_gradient(gradient)

    with torch.no_grad():
        wanted = predict(tuned, batch)
    with weight_gradients(packed, sink):
        logits = predict(packed, batch)
        torch.autograd.backward(logits, kl_gradient(logits, wanted) / len(logits))
