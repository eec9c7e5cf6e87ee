"""Which predictions of an expert are learned from: the filter by confidence of the paper's version 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Verdict(NamedTuple):
    """What an expert says of some predictions.

    Attributes:
        best: the outcome that it finds likeliest, int64 of shape (predictions,).
        sure: the probability that it gives it, fp32 of the same shape.
    """

    best: torch.Tensor
    sure: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor) -> Verdict:
        """From logits, fp32 of shape (predictions, outcomes)."""
        best = logits.argmax(-1)
        return cls(best, (logits.gather(1, best[:, None])[:, 0] - logits.logsumexp(-1)).exp())


def trusted(expert: Verdict, merged: Verdict) -> torch.Tensor:
    """Where the expert is believed: where both say the same, or the expert is at least as sure as the merged model.

    Returns:
        bool of shape (predictions,).

    >>> import torch
    >>> expert = Verdict(torch.tensor([4, 4, 4]), torch.tensor([0.5, 0.5, 0.5]))
    >>> trusted(expert, Verdict(torch.tensor([4, 7, 7]), torch.tensor([0.9, 0.4, 0.9])))
    tensor([ True,  True, False])
    """
    return (expert.best == merged.best) | (expert.sure >= merged.sure)
