"""Which tensors the divergence from the fine-tune comes from.

The KL is zero without errors and smallest there, so for small errors E it is a quadratic form of them. By Euler's
theorem on homogeneous functions it is then half the sum of <E_i, dKL/dE_i> over the tensors, with the gradient taken at
the packed model. One backward pass gives all of them, interactions of tensors included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from skillpack.evaluating.report import TensorShare
from skillpack.evaluating.scores import kl_gradient
from skillpack.live.precision import weight_gradients

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_PIECE: Final = 1 << 22
"""Numbers of a tensor that are widened at a time."""


class Blame:
    """Collects what the error of each tensor costs, batch by batch."""

    def __init__(self, packed: torch.nn.Module, tuned: torch.nn.Module) -> None:
        self._packed = packed
        self._weights = {name: weight for name, weight in packed.named_parameters() if weight.is_floating_point()}
        self._tuned = dict(tuned.named_parameters(remove_duplicate=False))
        self._sums = dict.fromkeys(self._weights, 0.0)

    def watching(self) -> AbstractContextManager[None]:
        """While this lasts, the packed model's predictions can be blamed."""
        return weight_gradients(self._packed, self._add)

    def add(self, logits: torch.Tensor, tuned: torch.Tensor) -> None:
        """Take a batch into account.

        Args:
            logits: of the packed model, computed while `watching`; fp32 of shape (predictions, outcomes).
            tuned: of the fine-tune, the same shape.
        """
        torch.autograd.backward(logits, kl_gradient(logits, tuned))

    def shares(self, predictions: int) -> list[TensorShare]:
        """What each tensor costs, nats per prediction.

        Args:
            predictions: how many there were in all batches.
        """
        return [TensorShare(name, total / predictions) for name, total in self._sums.items()]

    def _add(self, name: str, gradient: torch.Tensor) -> None:
        self._sums[name] += 0.5 * _inner(self._weights[name].detach(), self._tuned[name].detach(), gradient)


def _inner(packed: torch.Tensor, tuned: torch.Tensor, gradient: torch.Tensor) -> float:
    """<packed - tuned, gradient>, summed in fp64."""
    total = 0.0
    flat = (packed.reshape(-1), tuned.reshape(-1), gradient.reshape(-1))
    for piece in _pieces(packed.numel()):
        one, other, slope = (values[piece] for values in flat)
        total += float(((one.float() - other.float()) * slope).sum(dtype=torch.float64))
    return total


def _pieces(numbers: int) -> Iterator[slice]:
    for start in range(0, numbers, _PIECE):
        yield slice(start, start + _PIECE)
