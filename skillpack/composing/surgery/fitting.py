"""Learning the module: Adam on the L1 distance between representations that are computed already."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from skillpack.composing.learned.examples import in_turn
from skillpack.composing.surgery.module import Bias
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS: Final = 1 << 14
"""Positions that a distance is summed over at a time."""


class Pairs(NamedTuple):
    """The same positions as two models represent them.

    Attributes:
        merged: z of the merged model, fp32 of shape (positions, width).
        expert: z of the expert, in the same shape.
        sample: which text each position is of, int64 of shape (positions,).
    """

    merged: torch.Tensor
    expert: torch.Tensor
    sample: torch.Tensor


class Fitting(NamedTuple):
    """How to learn.

    Attributes:
        rank: rows of W_down.
        steps: of Adam.
        batch: texts whose positions a step goes over.
        rate: of Adam.
        seed: of W_down to begin with, and of the order of the texts.
        device: torch device to compute on.
    """

    rank: int
    steps: int
    batch: int
    rate: float
    seed: int
    device: str


def fit(pairs: Pairs, how: Fitting, progress: Progress = silent) -> Bias:
    """Learn what to take off, by the mean of |z' - z of the expert| over positions and numbers.

    As the authors' code does: Adam with its usual moments and no decay, W_down uniform within 1 / sqrt(width) as a
    linear layer of torch begins, and W_up zero, so that learning begins with the merged model as it is. Their images
    have one representation each; here every position of a text that is drawn counts like any other.

    Returns:
        In fp32, on the CPU.
    """
    draws = torch.Generator().manual_seed(how.seed)
    width = pairs.merged.shape[1]
    limit = 1 / math.sqrt(width)
    down = torch.empty(how.rank, width).uniform_(-limit, limit, generator=draws).to(how.device).requires_grad_()
    up = torch.zeros(width, how.rank, device=how.device).requires_grad_()
    bias = Bias(down, up)
    optimiser = torch.optim.Adam(bias, lr=how.rate)
    rows = _rows(pairs.sample, how.batch, draws)
    stage = Stage(progress, "learning the module", how.steps * down.nbytes)
    for _ in range(how.steps):
        chosen = next(rows)
        merged, expert = (states[chosen].to(how.device) for states in (pairs.merged, pairs.expert))
        with torch.enable_grad():
            loss = (bias.taken_off(merged) - expert).abs().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        stage.advance(down.nbytes)
    return Bias(down.detach().cpu(), up.detach().cpu())


@torch.no_grad()
def distance(pairs: Pairs, bias: Bias | None = None) -> float:
    """Mean of |z - z of the expert| over positions and numbers; with a module, of |z' - z of the expert|."""
    total = 0.0
    for start in range(0, len(pairs.merged), _ROWS):
        states, expert = (each[start : start + _ROWS] for each in (pairs.merged, pairs.expert))
        states = states if bias is None else bias.taken_off(states)
        total += float((states - expert).abs().sum(dtype=torch.float64))
    return total / pairs.merged.numel()


def _rows(sample: torch.Tensor, batch: int, draws: torch.Generator) -> Iterator[torch.Tensor]:
    """Places of the positions of a few texts, without end, each text in its turn."""
    counts = sample.bincount()
    order, ends = sample.argsort(stable=True), counts.cumsum(0).tolist()
    texts = [order[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True) if count]
    for chosen in in_turn(len(texts), batch, draws):
        yield torch.cat([texts[place] for place in chosen])
