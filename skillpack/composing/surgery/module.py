"""The module itself: a bottleneck with a ReLU, whose output is taken off a representation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class Bias(NamedTuple):
    """What a merged model's representation of a task has too much of.

    Attributes:
        down: W_down, fp32 of shape (rank, width).
        up: W_up, fp32 of shape (width, rank).
    """

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        """Rows of W_down."""
        return len(self.down)

    @property
    def width(self) -> int:
        """Numbers of a representation."""
        return len(self.up)

    def taken_off(self, representation: torch.Tensor) -> torch.Tensor:
        """The paper's formula, z' = z - W_up relu(W_down z).

        Args:
            representation: z, floating point of shape (..., width).

        Returns:
            z' in the shape and the dtype of z; computed in fp32.

        >>> import torch
        >>> bias = Bias(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0], [2.0]]))
        >>> bias.taken_off(torch.tensor([[3.0, 1.0], [-3.0, 1.0]]))
        tensor([[ 3., -5.],
                [-3.,  1.]])
        """
        exact = representation.float()
        found = exact - (exact @ self.down.T).relu() @ self.up.T
        return found.to(representation.dtype)

    def to(self, device: torch.device) -> Bias:
        """The same on another device."""
        return Bias(self.down.to(device), self.up.to(device))

    def rounded(self) -> Bias:
        """As it is after it was stored in bf16."""
        return Bias(self.down.bfloat16().float(), self.up.bfloat16().float())
