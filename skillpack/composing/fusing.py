"""How much of a small model's shift a large model takes over, from their logits at one step.

Fan et al., "On Giant's Shoulders: Effortless Weak to Strong by Dynamic Logits Fusion" (NeurIPS 2024, arXiv 2406.15480).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch

LARGEST: Final = 2.0
"""No weight is larger: beyond twice its own shift a small model knows nothing."""

_INTERVALS: Final = 8
_HALVINGS: Final = 8
TOLERANCE: Final = LARGEST / _INTERVALS / 2 ** (_HALVINGS + 1)
"""How far a weight may be from the one that solves the constraint: 0.0005."""


class _Tilted(NamedTuple):
    """The distributions P_a, proportional to P exp(a d), and how far from P they should be.

    Attributes:
        log_p: log P; fp32 of shape (rows, tokens), as the others.
        direction: d, zero on average under P.
        forward: KL(P_a || P) that is wanted, nats; fp32 of shape (rows,).
        reverse: KL(P || P_a) that is wanted, nats; the same.
    """

    log_p: torch.Tensor
    direction: torch.Tensor
    forward: torch.Tensor
    reverse: torch.Tensor

    def at(self, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The squared misses of both divergences, and half the derivative of their sum by alpha.

        With A(a) = log of the sum of P exp(a d) and d centred, KL(P_a || P) = a A'(a) - A(a) and KL(P || P_a) = A(a).
        """
        tilted = torch.addcmul(self.log_p, alpha[:, None], self.direction)
        top = tilted.amax(-1)
        likely = tilted.sub_(top[:, None]).exp_()
        total = likely.sum(-1)
        normaliser = top + total.log()
        mean = torch.linalg.vecdot(likely, self.direction) / total
        variance = torch.linalg.vecdot(likely, (self.direction - mean[:, None]).square_()) / total
        forward = alpha * mean - normaliser - self.forward
        reverse = normaliser - self.reverse
        return forward.square() + reverse.square(), forward * alpha * variance + reverse * mean

    def solve(self) -> torch.Tensor:
        """The alpha between 0 and `LARGEST` with the least squared misses; fp32 of shape (rows,).

        Both divergences rise with alpha, so the best one lies between those that solve one constraint each. It is the
        only minimum there unless the two are far apart; a grid of `_INTERVALS` finds the right one, and bisection on
        the sign of the derivative goes on to `TOLERANCE`. The number of passes over the vocabulary is fixed (16), and
        nothing is read back from the device.
        """
        width = LARGEST / _INTERVALS
        grid = [torch.full_like(self.forward, place * width) for place in range(1, _INTERVALS + 1)]
        tried = [self.at(alpha) for alpha in grid]
        start = self.forward.square() + self.reverse.square()
        best = torch.stack([start, *(misses for misses, _ in tried)]).argmin(0)
        slopes = torch.stack([torch.full_like(start, -1.0), *(slope for _, slope in tried)])
        falling = slopes.gather(0, best[None])[0] < 0
        low = (torch.where(falling, best, best - 1) * width).clamp(0, LARGEST)
        high = (low + width).clamp(max=LARGEST)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.at(middle)[1] < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def fusion_weights(large: torch.Tensor, base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """How much of each skill's shift the large model takes over at this step.

    For each skill alone, a_t is the number between 0 and 2 with the least

        (KL(P_a || P) - KL(Q_t || Q))^2 + (KL(P || P_a) - KL(Q || Q_t))^2

    where P is the large model, Q the small base and Q_t the small one with the skill: the shift is as long for the
    large model as it was for the small one, in both directions of the divergence. With several skills these are
    directions that add up; the sum is then scaled by the factor that is best for the same constraint summed over the
    skills, which asks for the mean of their divergences.

    Args:
        large: logits or log-probabilities of shape (rows, tokens); -inf stays impossible.
        base: of the small base, the same shape.
        tuned: of the small model with each skill, of shape (skills, rows, tokens).

    Returns:
        fp32 of shape (skills, rows), each within 0.0005 of the solution for its skill.

    Example:
        >>> large = torch.tensor([[0.0, 1.0, 2.0]])
        >>> base, tuned = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[[3.0, 0.0, 0.5]]])
        >>> alpha = fusion_weights(base, base, tuned)  # a large model that is the small one moves as far with alpha 1
        >>> round(float(alpha), 3), round(float(fusion_weights(large, base, tuned)), 2)
        (1.0, 1.03)
    """
    log_p = large.float().log_softmax(-1)
    log_q, log_t = base.float().log_softmax(-1), tuned.float().log_softmax(-1)
    shifts = _shifts(log_p, log_q, log_t)
    forward, reverse = _divergence(log_t, log_q), _divergence(log_q, log_t)
    skills, rows, tokens = shifts.shape
    spread = log_p.expand(skills, rows, tokens).reshape(-1, tokens)
    alone = _Tilted(spread, shifts.view(-1, tokens), forward.view(-1), reverse.view(-1)).solve().view(skills, rows)
    if skills == 1:
        return alone
    together = (alone[..., None] * shifts).sum(0)
    return alone * _Tilted(log_p, together, forward.mean(0), reverse.mean(0)).solve()


def fuse(
    large: torch.Tensor, base: torch.Tensor, tuned: torch.Tensor, alpha: torch.Tensor | float | None = None
) -> torch.Tensor:
    """Log-probabilities of the large model with the skills of the small one; fp32 of shape (rows, tokens).

    Args:
        large: see `fusion_weights`, as for the next two.
        base: of the small base.
        tuned: of the small model with each skill.
        alpha: the weight of each skill, of shape (skills, rows) or one number; by default `fusion_weights`.
    """
    log_p = large.float().log_softmax(-1)
    shifts = _shifts(log_p, base.float().log_softmax(-1), tuned.float().log_softmax(-1))
    if alpha is None:
        alpha = fusion_weights(large, base, tuned)
    if isinstance(alpha, torch.Tensor):
        alpha = alpha[..., None]
    return (log_p + (alpha * shifts).sum(0)).log_softmax(-1)


def _shifts(log_p: torch.Tensor, log_q: torch.Tensor, log_t: torch.Tensor) -> torch.Tensor:
    """What skills add to logits, zero on average under P; what a model rules out altogether is not moved."""
    shifts = log_t - log_q
    shifts = shifts.masked_fill(~shifts.isfinite() | log_p.isneginf(), 0)
    return shifts - (log_p.exp() * shifts).sum(-1, keepdim=True)


def _divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(P || Q) in nats, over the last dimension."""
    difference = (log_p - log_q).masked_fill(log_p.isneginf() | log_q.isneginf(), 0)
    return (log_p.exp() * difference).sum(-1)
