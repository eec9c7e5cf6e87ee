"""Making rounding errors cancel out where it matters, by what the fine-tune predicts on texts.

Errors of rounding point in random directions, most of which hardly matter to what a model predicts, and a few hundred
of which make most of the divergence. Coefficients are therefore moved before they are rounded, by some ten-thousandths
of a step: of millions of them some thousands then fall on the other side, which costs next to no bytes, adds next to
no noise, and moves the whole to where the divergence is less.

The moves are found by conjugate gradients (Fletcher and Reeves, 1964) on the mean KL(tuned || packed), each line search
being one parabola. So close to the fine-tune the divergence is a parabola indeed, and the gradient at its bottom lies
between those at the two points that were looked at: one backward pass a step is enough. So are few steps, and more
would learn the texts by heart: it is the strongest directions that go first, and those are the same for other texts of
the kind. After some steps everything is rounded again, so that the next ones see the errors that are really there.
"""

from __future__ import annotations

from collections import deque
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from skillpack.codecs.matrix import matrix_shape
from skillpack.packing.planning import common_shape
from skillpack.packing.spool import spooled
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.packing.lessons import Lessons
    from skillpack.packing.packer import Packer
    from skillpack.packing.planning import LossyPlan

_BETWEEN_ROUNDINGS: Final = 3
"""Steps after which coefficients are rounded again."""
_FAR: Final = 3.0
"""How much farther than tried a step may go."""
_LEFT: Final = 0.1
"""The least share of a divergence that a step is believed to leave."""


class _Tensor:
    """A tensor on the move: its coefficients, in steps, and its place in the live model.

    Attributes:
        plan: of the tensor.
        coefficients: of both factors, one below the other; fp32 of shape (rows + columns, rank), like what follows.
        gradient: of the mean KL with respect to them.
        ahead: that gradient where `project` was called last.
        direction: in which they move.
    """

    def __init__(self, plan: LossyPlan, weight: torch.nn.Parameter) -> None:
        self.plan = plan
        self._common = common_shape(plan.change)
        self._rows, self._columns = matrix_shape(self._common)
        # Moves are far smaller than what bf16 can tell apart.
        weight.data = _zeros(*weight.shape).copy_(weight.data)
        self._weight = weight.detach()
        self._slope = _zeros(self._rows, self._columns)

    @property
    def elements(self) -> int:
        """Of the tensor."""
        return self.plan.elements

    def take(self, step: float) -> bool:
        """Start from what is decoded at a step; False where that is no product of factors."""
        found = self.plan.factors(step)
        if found is None or not found.weights.size:
            return False
        self._weights = torch.from_numpy(found.weights)
        shape = self._rows + self._columns, len(found.weights)
        self.coefficients, self.gradient, self.ahead, self.direction, self._start = (_zeros(*shape) for _ in range(5))
        self.coefficients[: self._rows] = torch.from_numpy(found.left)
        self.coefficients[self._rows :] = torch.from_numpy(found.right)
        self._start.copy_(self.coefficients)
        self.show()
        return True

    def add_gradient(self, gradient: torch.Tensor) -> None:
        """Take a gradient with respect to the weight into account."""
        self._slope += gradient[: self._common[0]].reshape(self._rows, self._columns)

    def project(self) -> None:
        """Make of all gradients that were added the one with respect to the coefficients, `ahead`.

        Both products cost as much as a pass of some hundred tokens through the weight, so they are worth waiting for.
        """
        left, right = self.coefficients[: self._rows], self.coefficients[self._rows :]
        self.ahead[: self._rows] = (self._slope @ right) * self._weights
        self.ahead[self._rows :] = (self._slope.T @ left) * self._weights
        self._slope.zero_()

    def arrive(self, share: float) -> None:
        """Take for the gradient what it is so far on the way from where it was to `ahead`."""
        self.gradient.lerp_(self.ahead, share)

    def turn(self, share: float) -> None:
        """Look in a new direction: down the gradient, and on with a share of the one before."""
        self.direction.mul_(share).sub_(self.gradient)

    def move(self, length: float) -> None:
        """Go along the direction; the model stays where it is until `show`."""
        self.coefficients.add_(self.direction, alpha=length)

    def show(self) -> None:
        """Let the model compute with the coefficients."""
        base, _ = self.plan.operands()
        if base is None:
            raise ValueError(f"tensor {self.plan.change.name} has no reference")
        left, right = self.coefficients[: self._rows], self.coefficients[self._rows :]
        delta = (left * self._weights) @ right.T
        # What is fp32 already lies in the file, which torch warns of.
        start = torch.from_numpy(np.require(base.float32(), requirements="W")).reshape(self._common)
        torch.add(start, delta.reshape(self._common), out=self._weight[: self._common[0]])

    def settle(self, step: float) -> None:
        """Let the plan round what the coefficients are now."""
        moves = (self.coefficients - self._start).numpy()
        self.plan.move(step, moves[: self._rows], moves[self._rows :])


def roundings(rounds: int) -> int:
    """How many times so many steps of descent round everything."""
    return -(-rounds // _BETWEEN_ROUNDINGS)


def refine(
    packer: Packer,
    step: float,
    packed: Any,
    lessons: Sequence[Lessons],
    *,
    rounds: int,
    progress: Progress = silent,
) -> None:
    """Let the plans of a packer round other coefficients, so that a pack at this step is closer to the fine-tune.

    Args:
        packer: whose plans are moved, until they are restored.
        step: with which the model was coded.
        packed: the model with the skill, as `open_model` gives it; its weights are changed.
        lessons: what to learn from; where there are several they take turns, one after each rounding.
        rounds: steps of descent.
        progress: called during the work.
    """
    weights = dict(packed.named_parameters())
    found = {plan.change.name: _Tensor(plan, weights[plan.change.name]) for plan in _movable(packer, weights)}
    each = packer.threads.for_each
    turns = [
        (lessons[turn % len(lessons)], min(_BETWEEN_ROUNDINGS, rounds - turn * _BETWEEN_ROUNDINGS))
        for turn in range(roundings(rounds))
    ]
    stage = Stage(progress, "refining", sum(some.nbytes * (steps + 1) for some, steps in turns))
    for some, steps in turns:
        taken = list(each(lambda tensor: tensor.take(step), list(found.values()), lambda tensor: tensor.elements))
        tensors = dict(compress(found.items(), taken))
        _descend(tensors, packed, some, steps, stage)
        settled = each(lambda tensor: tensor.settle(step), list(tensors.values()), lambda tensor: tensor.elements)
        deque(settled, maxlen=0)
    packer.recount()


def _descend(tensors: dict[str, _Tensor], model: Any, lessons: Lessons, steps: int, stage: Stage) -> None:
    """Some steps of conjugate gradients, the first one straight down."""
    kl = _look_ahead(tensors, model, lessons, stage)
    share, before = 1.0, 0.0
    for left in reversed(range(steps)):
        slope = square = 0.0
        for tensor in tensors.values():
            tensor.arrive(share)
            square += _dot(tensor.gradient, tensor.gradient)
        if not square:
            return
        for tensor in tensors.values():
            tensor.turn(square / before if before else 0.0)
            slope += _dot(tensor.gradient, tensor.direction)
        # Where the tangent reaches zero; a parabola's bottom is at most twice as far from there as from here.
        tried = kl / abs(slope)
        for tensor in tensors.values():
            tensor.move(tried)
            tensor.show()
        ahead = _look_ahead(tensors, model, lessons, stage) if left else lessons.kl(model, stage)
        bend = (ahead - kl - tried * slope) / tried**2
        best = min(-slope / (2 * bend), _FAR * tried) if bend > 0 else tried
        for tensor in tensors.values():
            tensor.move(best - tried)
        kl, share, before = max(kl + best * slope + best**2 * bend, _LEFT * kl), best / tried, square


def _look_ahead(tensors: dict[str, _Tensor], model: Any, lessons: Lessons, stage: Stage) -> float:
    """The divergence of the model, whose gradient becomes the tensors' `ahead`."""

    def sink(name: str, gradient: torch.Tensor) -> None:
        if name in tensors:
            tensors[name].add_gradient(gradient)

    kl = lessons.kl_with_gradients(model, sink, stage)
    for tensor in tensors.values():
        tensor.project()
    return kl


def _movable(packer: Packer, weights: dict[str, torch.nn.Parameter]) -> Iterator[LossyPlan]:
    for plan in packer.lossy:
        if plan.is_matrix and plan.change.name in weights and plan.operands()[0] is not None:
            yield plan


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum(dtype=torch.float64))


def _zeros(*shape: int) -> torch.Tensor:
    """An fp32 tensor whose memory is a temporary file."""
    return torch.from_numpy(spooled(shape, np.float32))
