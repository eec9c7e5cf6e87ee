"""Learning coefficients for all tasks and a layer for each, together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from skillpack.composing.learned.adamerging import Clamped
from skillpack.composing.learned.losses import cross_entropy
from skillpack.composing.names import TINTING
from skillpack.composing.tinting.trusting import Verdict, trusted
from skillpack.errors import NotFiniteError, UsageError, listing
from skillpack.live.predictions import predict
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.learned.examples import Examples, Piece
    from skillpack.composing.learned.live import LiveSum

_EMBEDDINGS = "get_input_embeddings", "get_output_embeddings"


@dataclass(frozen=True)
class Tinting:
    """How to learn. Adam with its usual moments and no decay, an update after the texts of each task.

    Attributes:
        layer: the tensor of the base that each task has its own of; by default the last matrix that skills change,
            embeddings left out: the head of a classifier, in a decoder the last one of its last block.
        start: where coefficients begin; they are kept between 0 and 1.
        rate: of Adam for the coefficients, as in the authors' code.
        layer_rate: of Adam for the layers. The authors' 0.01 is for heads on features of CLIP; the weights of a block
            are of that size themselves.
    """

    name: ClassVar[str] = TINTING

    layer: str | None = None
    start: float = 0.3
    rate: float = 0.01
    layer_rate: float = 1e-4


class Tinted(NamedTuple):
    """What came out.

    Attributes:
        weights: of the skills in each spot, fp32 of shape (tensors, skills); in the tinted one they are where they
            began.
        spot: number of the tinted tensor.
        layers: of each task, what is added to the base's tensor, fp32 of its shape.
        losses: at each step before it was taken, nats per prediction, summed over the tasks.
    """

    weights: torch.Tensor
    spot: int
    layers: tuple[torch.Tensor, ...]
    losses: tuple[float, ...]


def fit(
    live: LiveSum, tasks: Sequence[Examples], how: Tinting, *, steps: int, seed: int = 0, progress: Progress = silent
) -> Tinted:
    """Learn by gradient descent on the cross-entropy of what the experts find likeliest, where they are trusted.

    Args:
        live: the base with the skills.
        tasks: texts of each skill's task, in the order of the skills.
        how: what and how fast.
        steps: how many; each goes over texts of every task, in an order that is drawn.
        seed: of that order.
        progress: called after each step; counts bytes of the weights that are set.

    Raises:
        NotFiniteError: the model predicts NaN or infinity.
        UsageError: no skill changes the layer.
    """
    spot = spot_of(live, how.layer)
    weighting = Clamped(live, start=how.start, layerwise=True)
    layers = [_layer_of(live, spot, task).requires_grad_() for task in range(len(tasks))]
    groups = [{"params": weighting.parameters, "lr": how.rate}, {"params": layers, "lr": how.layer_rate}]
    optimiser = torch.optim.Adam(groups)
    draws = torch.Generator().manual_seed(seed)
    stage = Stage(progress, "learning layers", steps * live.nbytes)
    losses = []
    for _ in range(steps):
        loss = 0.0
        for task in torch.randperm(len(tasks), generator=draws).tolist():
            pieces = [piece.to(live.device) for piece in tasks[task].draw()]
            experts = verdicts(live, task, pieces)
            weights = weighting.weights()
            put(live, weights.detach(), spot, layers[task].detach())
            optimiser.zero_grad()
            found, of_layer, part = _slopes(live, pieces, experts, spot)
            loss += part
            # The layer is not a sum of the skills' any more.
            found[spot] = 0
            weights.backward(found)  # type: ignore[no-untyped-call]
            layers[task].grad = of_layer
            optimiser.step()
        losses.append(loss)
        stage.advance(live.nbytes)
    with torch.no_grad():
        final = weighting.weights().detach().clone()
    return Tinted(final, spot, tuple(layer.detach() for layer in layers), tuple(losses))


def spot_of(live: LiveSum, layer: str | None) -> int:
    """Number of the spot of a tensor, by its name in the base; see `Tinting.layer`.

    Raises:
        UsageError: no skill changes it, or it can be none.
    """
    if layer is not None:
        if layer not in live.names:
            raise UsageError(
                f"No skill changes the tensor {layer}", hint=f"Choose one that they do: {listing(live.names, 4)}."
            )
        return live.names.index(layer)
    embeddings = [getattr(live.model, name)() for name in _EMBEDDINGS]
    left_out = {id(module.weight) for module in embeddings if isinstance(getattr(module, "weight", None), torch.Tensor)}
    order = {id(weight): place for place, weight in enumerate(live.model.parameters())}
    places = {
        order[id(spot.place.tensor)]: number
        for number, spot in enumerate(live.spots)
        if spot.place.values.dim() > 1 and id(spot.place.tensor) not in left_out
    }
    if not places:
        raise UsageError("The skills change no matrix but embeddings", hint="Name a tensor: --layer NAME")
    return places[max(places)]


@torch.no_grad()
def verdicts(live: LiveSum, task: int, pieces: Sequence[Piece]) -> list[Verdict]:
    """What the expert of a task says of texts; the model is left with that skill alone."""
    live.set(live.alone(task))
    return [Verdict.of(predict(live.model, piece.batch)) for piece in pieces]


def put(live: LiveSum, weights: torch.Tensor, spot: int, layer: torch.Tensor) -> None:
    """Let the model be the weighted sum with one tensor of another kind.

    Args:
        live: the model.
        weights: see `LiveSum.set`.
        spot: number of the tensor.
        layer: what is added to the base's, fp32.
    """
    live.set(weights)
    live.write(spot, layer)


def _layer_of(live: LiveSum, spot: int, task: int) -> torch.Tensor:
    """What the expert of a task adds to a tensor; a copy."""
    delta = live.spots[spot].deltas[task]
    if delta is None:
        return torch.zeros(live.spots[spot].base.shape, device=live.device)
    return delta.values().clone()


def _slopes(
    live: LiveSum, pieces: Sequence[Piece], experts: Sequence[Verdict], spot: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Derivatives of the loss for all coefficients and for one tensor, and the loss, nats per prediction."""
    found, take = live.weight_gradient()
    of_layer, total = torch.zeros(live.spots[spot].base.shape, device=live.device), 0.0

    def both(number: int, gradient: torch.Tensor) -> None:
        if number == spot:
            of_layer.add_(gradient)
        else:
            take(number, gradient)

    with live.gradients(both), torch.enable_grad():
        for piece, expert in zip(pieces, experts, strict=True):
            logits = predict(live.model, piece.batch)
            if not bool(logits.isfinite().all()):
                raise NotFiniteError(
                    "the base with the skills predicts NaN or infinity",
                    hint="Learn at a lower rate, or check the skills: an exact skill brings its NaN along.",
                )
            believed = trusted(expert, Verdict.of(logits.detach()))
            if not bool(believed.any()):
                continue
            # The mean over the predictions that count, times the share of the piece in all texts of the draw.
            shares = believed * (piece.shares.sum() / believed.sum())
            loss, gradient = cross_entropy(logits.detach(), expert.best).weighted(shares)
            total += loss
            logits.backward(gradient)  # type: ignore[no-untyped-call]
    return found, of_layer, total


@torch.no_grad()
def distance(live: LiveSum, pieces: Sequence[Piece], experts: Sequence[Verdict]) -> float:
    """Mean cross-entropy of what the expert finds likeliest, over all predictions, nats; the model is set."""
    total = 0.0
    for piece, expert in zip(pieces, experts, strict=True):
        loss, _ = cross_entropy(predict(live.model, piece.batch), expert.best).weighted(piece.shares)
        total += loss
    return total
