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
from contextlib import closing
from itertools import compress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from skillpack.codecs.matrix import matrix_shape
from skillpack.errors import DataError
from skillpack.evaluating.scores import divergence, kl_gradient
from skillpack.evaluating.trials import LEAST_TO_LEARN
from skillpack.live.precision import weight_gradients
from skillpack.live.predictions import predict
from skillpack.live.prefixes import read_prefix
from skillpack.packing.divergence import pack_within
from skillpack.packing.planning import common_shape
from skillpack.packing.spool import spooled
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.evaluating.trials import Measured
    from skillpack.live.batches import Batch
    from skillpack.live.prefixes import Prefix
    from skillpack.packing.divergence import Candidates
    from skillpack.packing.packer import Goal, Packed, Packer
    from skillpack.packing.planning import LossyPlan

_BETWEEN_ROUNDINGS: Final = 3
"""Steps after which coefficients are rounded again."""
_BATCHES: Final = 8
"""Most batches that are learned from at a time; where there are more, others take their turn after each rounding."""
_USUAL_ROUNDS: Final = 3
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


class _Lessons:
    """Texts, with what the fine-tune predicts for them, and a model that is to predict the same."""

    def __init__(self, model: Any, tuned: Any, batches: Sequence[Batch], stage: Stage) -> None:
        self._model, self._stage, self._batches = model, stage, batches
        self._predictions = sum(len(batch.sample) for batch in batches)
        with torch.no_grad():
            prefix = read_prefix(tuned, batches)
            self._wanted = [_kept(predict(tuned, batch, prefix)) for batch in batches]

    @torch.no_grad()
    def kl(self) -> float:
        """Mean KL(tuned || model), nats per prediction."""
        prefix = read_prefix(self._model, self._batches)
        return self._mean(predict(self._model, batch, prefix) for batch in self._batches)

    def kl_with_gradients(self, tensors: dict[str, _Tensor]) -> float:
        """The same, and its gradient becomes the tensors' `ahead`."""

        def sink(name: str, gradient: torch.Tensor) -> None:
            if name in tensors:
                tensors[name].add_gradient(gradient)

        def logits(prefix: Prefix | None) -> Iterator[torch.Tensor]:
            for batch, wanted in zip(self._batches, self._wanted, strict=True):
                found = predict(self._model, batch, prefix)
                torch.autograd.backward(found, kl_gradient(found, wanted) / self._predictions)
                self._stage.advance(batch.nbytes)
                yield found.detach()

        with weight_gradients(self._model, sink), torch.enable_grad():
            prefix = read_prefix(self._model, self._batches)
            kl = self._mean(logits(prefix))
            if prefix is not None:
                prefix.backward()
        for tensor in tensors.values():
            tensor.project()
        return kl

    def _mean(self, logits: Iterator[torch.Tensor]) -> float:
        pairs = zip(logits, self._wanted, strict=True)
        return sum(float(divergence(found, wanted).kl.double().sum()) for found, wanted in pairs) / self._predictions


def refine(
    packer: Packer,
    step: float,
    packed: Any,
    tuned: Any,
    *,
    batches: Sequence[Batch],
    rounds: int,
    progress: Progress = silent,
) -> None:
    """Let the plans of a packer round other coefficients, so that a pack at this step is closer to the fine-tune.

    Args:
        packer: whose plans are moved, until they are restored.
        step: with which the model was coded.
        packed: the model with the skill, as `open_model` gives it; its weights are changed.
        tuned: the fine-tune.
        batches: what to learn from.
        rounds: steps of descent.
        progress: called during the work.
    """
    weights = dict(packed.named_parameters())
    found = {plan.change.name: _Tensor(plan, weights[plan.change.name]) for plan in _movable(packer, weights)}
    each = packer.threads.for_each
    turns = [batches[at : at + _BATCHES] for at in range(0, len(batches), _BATCHES)]
    stage = Stage(progress, "refining", sum(_nbytes(turns, done) for done in range(rounds)))
    for done in range(0, rounds, _BETWEEN_ROUNDINGS):
        taken = list(each(lambda tensor: tensor.take(step), list(found.values()), lambda tensor: tensor.elements))
        tensors = dict(compress(found.items(), taken))
        lessons = _Lessons(packed, tuned, turns[_turn(turns, done)], stage)
        _descend(tensors, lessons, min(_BETWEEN_ROUNDINGS, rounds - done))
        settled = each(lambda tensor: tensor.settle(step), list(tensors.values()), lambda tensor: tensor.elements)
        deque(settled, maxlen=0)
    packer.recount()


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
        DataError: there are too few texts to learn from, as was asked for.
    """

    def plain(step: float | None = None) -> tuple[Packed, Measured]:
        packed = packer.pack() if step is None else packer.coded_at(step)
        return packed, candidates.measure(packed)

    def better(draft: Packed) -> tuple[Packed, Measured]:
        """What learning makes of a pack that is not checked, or that pack itself where it does not help."""
        step = draft.step
        with closing(draft.payload):
            model = candidates.opened(draft)
        found = trials.measure(model)
        refine(packer, step, model, trials.tuned, batches=trials.lessons, rounds=rounds, progress=progress)
        try:
            packed, measured = plain(step)
        finally:
            packer.restore()
        if measured.kl < found.kl and (goal.size is None or packed.size <= goal.size):
            return packed, measured
        packed.payload.close()
        return plain(None if goal.max_kl is None else step)

    trials, rounds = candidates.trials, _rounds(goal, candidates)
    if goal.max_kl is not None:
        # What will most likely not be kept need not be checked.
        attempt = (lambda step: better(packer.coded_at(step, checked=False))) if rounds else plain
        return pack_within(packer.first_step(), goal.max_kl, attempt)
    return better(packer.pack(checked=False)) if rounds else plain()


def _rounds(goal: Goal, candidates: Candidates) -> int:
    """How many steps of learning there are to be."""
    trials = candidates.trials
    if goal.refine and not trials.lessons:
        raise DataError(
            f"{len(trials.samples)} samples are too few to learn from and to measure with",
            hint=f"Give {LEAST_TO_LEARN} or more; some dozens are better.",
        )
    return _USUAL_ROUNDS if goal.refine is None and trials.lessons else goal.refine or 0


def _descend(tensors: dict[str, _Tensor], lessons: _Lessons, steps: int) -> None:
    """Some steps of conjugate gradients, the first one straight down."""
    kl = lessons.kl_with_gradients(tensors)
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
        ahead = lessons.kl_with_gradients(tensors) if left else lessons.kl()
        bend = (ahead - kl - tried * slope) / tried**2
        best = min(-slope / (2 * bend), _FAR * tried) if bend > 0 else tried
        for tensor in tensors.values():
            tensor.move(best - tried)
        kl, share, before = max(kl + best * slope + best**2 * bend, _LEFT * kl), best / tried, square


def _movable(packer: Packer, weights: dict[str, torch.nn.Parameter]) -> Iterator[LossyPlan]:
    for plan in packer.lossy:
        if plan.is_matrix and plan.change.name in weights and plan.operands()[0] is not None:
            yield plan


def _turn(turns: Sequence[Sequence[Batch]], done: int) -> int:
    return done // _BETWEEN_ROUNDINGS % len(turns)


def _nbytes(turns: Sequence[Sequence[Batch]], done: int) -> int:
    return sum(batch.nbytes for batch in turns[_turn(turns, done)])


def _dot(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum(dtype=torch.float64))


def _zeros(*shape: int) -> torch.Tensor:
    """An fp32 tensor whose memory is a temporary file."""
    return torch.from_numpy(spooled(shape, np.float32))


def _kept(logits: torch.Tensor) -> torch.Tensor:
    return _zeros(*logits.shape).copy_(logits)
