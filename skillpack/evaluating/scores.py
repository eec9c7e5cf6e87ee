"""Comparing the predictions of two models; never more than a piece of a vocabulary-sized table beside the logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE: Final = 1 << 22
"""Logits whose probabilities are in memory at a time."""


class Divergence(NamedTuple):
    """How predictions differ from the fine-tune's.

    Attributes:
        kl: KL(tuned || model) of each prediction, nats; fp32 of shape (predictions,).
        agrees: whether the most likely outcome is the same; bool of shape (predictions,).
    """

    kl: torch.Tensor
    agrees: torch.Tensor


@torch.no_grad()
def divergence(logits: torch.Tensor, tuned: torch.Tensor) -> Divergence:
    """Compare logits with the fine-tune's.

    Args:
        logits: of the model, fp32 of shape (predictions, outcomes).
        tuned: of the fine-tune, the same shape.
    """
    kl, agrees = [], []
    for piece in _pieces(logits):
        found, wanted = logits[piece].log_softmax(-1), tuned[piece].log_softmax(-1)
        share = wanted.exp()
        # Outcomes that the fine-tune excludes cost nothing, also where both logits are minus infinity.
        terms = (share * (wanted - found)).masked_fill_(share == 0, 0.0)
        kl.append(terms.sum(-1))
        agrees.append(found.argmax(-1) == wanted.argmax(-1))
    return Divergence(torch.cat(kl), torch.cat(agrees))


@torch.no_grad()
def negative_log_likelihood(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of targets, nats; fp32 of shape (predictions,).

    Args:
        logits: fp32 of shape (predictions, outcomes).
        targets: int64 of shape (predictions,).
    """
    pieces = [torch.nn.functional.cross_entropy(logits[at], targets[at], reduction="none") for at in _pieces(logits)]
    return torch.cat(pieces)


@torch.no_grad()
def kl_gradient(logits: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Gradient of the sum of KL(tuned || model) with respect to the model's logits: p_model - p_tuned.

    Args:
        logits: of the model, fp32 of shape (predictions, outcomes).
        tuned: of the fine-tune, the same shape.
    """
    gradient = torch.empty_like(logits)
    for piece in _pieces(logits):
        gradient[piece] = logits[piece].softmax(-1).sub_(tuned[piece].softmax(-1))
    return gradient


def _pieces(logits: torch.Tensor) -> Iterator[slice]:
    step = max(1, _PIECE // max(1, logits.shape[-1]))
    for start in range(0, max(1, len(logits)), step):
        yield slice(start, start + step)
