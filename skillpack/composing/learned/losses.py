"""What is minimised while something about skills is learned: a loss, and its gradient with respect to logits.

Gradients are written down rather than left to autograd, which would keep several tables of the size of the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE: Final = 1 << 22
"""Logits whose probabilities are in memory at a time."""


class Loss(NamedTuple):
    """A loss of some predictions.

    Attributes:
        each: of each prediction, nats; fp32 of shape (predictions,).
        gradient: of each with respect to its logits, fp32 of their shape.
    """

    each: torch.Tensor
    gradient: torch.Tensor

    def weighted(self, shares: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Sum of the losses times their shares, and its gradient; the gradient of this is written over."""
        return float((self.each * shares).sum()), self.gradient.mul_(shares[:, None])


@torch.no_grad()
def entropy(logits: torch.Tensor) -> Loss:
    """Shannon entropy of each prediction, H = -sum p log p; dH/dz = -p (log p + H).

    Args:
        logits: fp32 of shape (predictions, outcomes).
    """
    found, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
    for at in _pieces(logits):
        logs = logits[at].log_softmax(-1)
        shares = logs.exp()
        # Outcomes that are excluded add nothing, where 0 times minus infinity would be NaN.
        logs.masked_fill_(shares == 0, 0.0)
        each = -(shares * logs).sum(-1, keepdim=True)
        gradient[at] = shares.mul_(logs.add_(each)).neg_()
        found[at] = each[:, 0]
    return Loss(found, gradient)


@torch.no_grad()
def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> Loss:
    """Negative log-likelihood of the targets; its gradient is p less one at the target.

    Args:
        logits: fp32 of shape (predictions, outcomes).
        targets: int64 of shape (predictions,).
    """
    found, gradient = logits.new_empty(len(logits)), torch.empty_like(logits)
    for at in _pieces(logits):
        logs = logits[at].log_softmax(-1)
        chosen = targets[at, None]
        found[at] = -logs.gather(1, chosen)[:, 0]
        gradient[at] = logs.exp_()
        gradient[at].scatter_add_(1, chosen, torch.full_like(chosen, -1, dtype=gradient.dtype))
    return Loss(found, gradient)


def _pieces(logits: torch.Tensor) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, logits.shape[-1]))
    for start in range(0, len(logits), step):
        yield slice(start, start + step)
