"""Deltas of skills as they are kept while something about them is learned: as thin factors where a skill has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from skillpack.codecs.protocol import DeltaFactors
    from skillpack.skill import Skill
    from skillpack.summing import Claim
    from skillpack.tensors import Tensor

_SMALL: Final = 1 << 16
"""Elements up to which a delta is kept in fp32; a larger one that has no factors is rounded to bf16, half of it."""


class Delta:
    """What one skill adds to one tensor of the base."""

    def values(self) -> torch.Tensor:
        """The delta itself, fp32."""
        raise NotImplementedError

    def add_to(self, target: torch.Tensor, weight: float) -> None:
        """Add it to a tensor in place.

        Args:
            target: fp32 of the delta's shape; may be a view.
            weight: factor.
        """
        raise NotImplementedError

    def dot(self, gradient: torch.Tensor) -> float:
        """Sum of the products with a gradient, which is the derivative for the delta's weight.

        Args:
            gradient: fp32 of the delta's shape.
        """
        raise NotImplementedError


class Product(Delta):
    """Two thin matrices.

    Attributes:
        left: fp32 of shape (rows, rank).
        right: fp32 of shape (rank, columns).
    """

    def __init__(self, left: torch.Tensor, right: torch.Tensor) -> None:
        self.left, self.right = left, right

    def values(self) -> torch.Tensor:
        """See `Delta`."""
        return self.left @ self.right

    def add_to(self, target: torch.Tensor, weight: float) -> None:
        """See `Delta`."""
        if weight:
            target.addmm_(self.left, self.right, alpha=weight)

    def dot(self, gradient: torch.Tensor) -> float:
        """See `Delta`; the matrix is never formed."""
        return float((self.left.T @ gradient).mul_(self.right).sum())


class Whole(Delta):
    """A delta entry by entry.

    Attributes:
        kept: bf16 if it is large, else fp32.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.kept = values.to(torch.bfloat16) if values.numel() > _SMALL else values

    def values(self) -> torch.Tensor:
        """See `Delta`."""
        return self.kept.float()

    def add_to(self, target: torch.Tensor, weight: float) -> None:
        """See `Delta`."""
        if weight:
            target.add_(self.kept, alpha=weight)

    def dot(self, gradient: torch.Tensor) -> float:
        """See `Delta`."""
        return float((gradient * self.kept).sum())


def delta_of(skill: Skill, claim: Claim, base: Tensor, device: torch.device) -> Delta:
    """What a skill adds to a tensor, for as long as something is learned.

    Args:
        skill: the one that the claim is of.
        claim: what it wants the tensor to be.
        base: the base's tensor, which an exact value is compared with.
        device: where to keep it.

    Raises:
        DamagedSkillError: the skill's content makes no sense.
    """
    factors = None if claim.entry.same_as is not None else skill.factors(claim.entry)
    if factors is not None and _is_thin(factors):
        return Product(torch.from_numpy(factors.left).to(device), torch.from_numpy(factors.right.T.copy()).to(device))
    values = claim.decode().difference(claim.entry.name, base)
    return Whole(torch.from_numpy(values).reshape(claim.entry.shape).to(device))


def _is_thin(factors: DeltaFactors) -> bool:
    """Whether the factors take less memory than the matrix does in bf16."""
    rows, columns = factors.left.shape[0], factors.right.shape[0]
    return 2 * factors.rank * (rows + columns) < rows * columns
