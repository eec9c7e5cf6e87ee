"""Singular value decompositions of deltas, kept for as long as the same pair of models is worked on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from pathlib import Path


class Triplets(NamedTuple):
    """Singular triplets in falling order of strength: ``delta = left @ diag(strengths) @ right``.

    Attributes:
        left: columns of length one, fp32 (rows, rank).
        strengths: fp32 (rank,).
        right: rows of length one, fp32 (rank, columns).
    """

    left: torch.Tensor
    strengths: torch.Tensor
    right: torch.Tensor

    def leading(self, rank: int) -> Triplets:
        """The strongest ones, copied."""
        return Triplets(self.left[:, :rank].clone(), self.strengths[:rank].clone(), self.right[:rank].clone())


def decompose(matrix: torch.Tensor) -> Triplets:
    """All triplets of an fp32 matrix."""
    return Triplets(*torch.linalg.svd(matrix, full_matrices=False))


class Decompositions:
    """The triplets of a fine-tune's deltas; each delta is decomposed when it is first asked for.

    They are kept, about twice the deltas in fp32, since a sweep over settings asks for them again and again.
    """

    def __init__(self) -> None:
        self._known: dict[str, Triplets] = {}

    def of(self, name: str, delta: torch.Tensor) -> Triplets:
        """All triplets of the delta of that name."""
        if name not in self._known:
            self._known[name] = decompose(delta)
        return self._known[name]


@lru_cache(maxsize=1)
def decompositions(base: Path, tuned: Path) -> Decompositions:
    """The decompositions of a pair of models; those of the last pair are kept."""
    del base, tuned
    return Decompositions()
