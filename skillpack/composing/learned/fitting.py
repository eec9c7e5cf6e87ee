"""Learning a few numbers that say how much of each skill there is, by the gradients of a loss on texts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from skillpack.composing.learned.losses import Loss, cross_entropy, entropy
from skillpack.errors import NotFiniteError
from skillpack.live.predictions import predict
from skillpack.progress import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skillpack.composing.learned.examples import Examples, Piece
    from skillpack.composing.learned.live import LiveSum
    from skillpack.progress import Progress


class Weighting(Protocol):
    """What is learned, and what it makes of the skills' weights."""

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What is learned; leaves that want gradients."""

    def weights(self) -> torch.Tensor:
        """Weights of all skills in all tensors, fp32 of shape (tensors, skills); autograd finds the parameters."""


class Fitted(NamedTuple):
    """What came out.

    Attributes:
        weights: fp32 of shape (tensors, skills).
        losses: at each step before it was taken, nats per prediction, summed over the tasks.
    """

    weights: torch.Tensor
    losses: tuple[float, ...]


def fit(
    live: LiveSum,
    examples: Examples,
    weighting: Weighting,
    optimiser: torch.optim.Optimizer,
    *,
    steps: int,
    progress: Progress,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> Fitted:
    """Learn by gradient descent; the model is left with the weights that were learned.

    Args:
        live: the base with the skills.
        examples: what to learn from.
        weighting: what is learned.
        optimiser: of the weighting's parameters.
        steps: how many; each draws new texts.
        progress: called after each step; counts bytes of the weights that are set.
        schedule: of the optimiser's rate.

    Raises:
        NotFiniteError: the model predicts NaN or infinity.
    """
    stage = Stage(progress, "learning weights", steps * live.nbytes)
    losses = []
    for _ in range(steps):
        weights = weighting.weights()
        live.set(weights.detach())
        found, take = live.weight_gradient()
        losses.append(passes(live, examples.draw(), take))
        optimiser.zero_grad()
        weights.backward(found)  # type: ignore[no-untyped-call]
        optimiser.step()
        if schedule is not None:
            schedule.step()
        stage.advance(live.nbytes)
    with torch.no_grad():
        final = weighting.weights().detach().clone()
    live.set(final)
    return Fitted(final, tuple(losses))


def passes(live: LiveSum, pieces: Sequence[Piece], take: Callable[[int, torch.Tensor], None]) -> float:
    """Forward and backward over texts.

    Args:
        live: the model, its weights set.
        pieces: texts, with targets where the loss is cross-entropy; without, it is entropy.
        take: given the gradients, see `LiveSum.gradients`.

    Returns:
        The loss, nats: the mean over the predictions of a task, summed over the tasks.

    Raises:
        NotFiniteError: the model predicts NaN or infinity.
    """
    total = 0.0
    with live.gradients(take), torch.enable_grad():
        for piece in pieces:
            moved = piece.to(live.device)
            logits = predict(live.model, moved.batch)
            loss, gradient = _loss(logits.detach(), moved).weighted(moved.shares)
            total += loss
            logits.backward(gradient)  # type: ignore[no-untyped-call]
    return _finite(total)


@torch.no_grad()
def measure(live: LiveSum, pieces: Sequence[Piece]) -> float:
    """The loss alone, see `passes`."""
    moved = [piece.to(live.device) for piece in pieces]
    total = sum(_loss(predict(live.model, piece.batch), piece).weighted(piece.shares)[0] for piece in moved)
    return _finite(total)


def _loss(logits: torch.Tensor, piece: Piece) -> Loss:
    return entropy(logits) if piece.targets is None else cross_entropy(logits, piece.targets)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise NotFiniteError(
            "the base with the skills predicts NaN or infinity",
            hint="Learn at a lower rate, or check the skills: an exact skill brings its NaN along.",
        )
    return loss
