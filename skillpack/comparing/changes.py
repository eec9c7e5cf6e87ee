"""What a skill adds to one tensor, as a matrix that need not be formed: thin factors where the codec has them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from skillpack.codecs.matrix import matrix_shape
from skillpack.tensor_differences import NotComparableError, delta_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.checkpoint import Checkpoint
    from skillpack.manifest import TensorEntry
    from skillpack.skill import Skill
    from skillpack.tensors import Doubles, Floats

_POWER_STEPS: Final = 2
_SPARE: Final = 8
"""Directions that the randomised decomposition carries beyond those that are asked for."""


@dataclass(frozen=True)
class Bases:
    """Orthonormal bases of the strongest directions of a matrix.

    Attributes:
        left: top left singular vectors, fp64 [rows, rank].
        right: top right singular vectors, fp64 [columns, rank].
    """

    left: Doubles
    right: Doubles


@dataclass(frozen=True)
class Change:
    """A delta as the matrix that `matrix_shape` folds it to.

    Attributes:
        shape: rows and columns.
        dense: the matrix, fp32; None where there are factors.
        left: fp32 [rows, rank], of the product left @ right.T; None where it is dense.
        right: fp32 [columns, rank]; likewise.
    """

    shape: tuple[int, int]
    dense: Floats | None = None
    left: Floats | None = None
    right: Floats | None = None

    @classmethod
    def of_dense(cls, delta: Floats) -> Change:
        """A delta of any shape."""
        shape = matrix_shape(delta.shape)
        return cls(shape, delta.reshape(shape))

    @classmethod
    def of_factors(cls, left: Floats, right: Floats) -> Change:
        """The product left @ right.T."""
        return cls((len(left), len(right)), None, left, right)

    def rows(self, start: int, end: int) -> Floats:
        """Some rows of the matrix."""
        if self.dense is not None:
            return self.dense[start:end]
        if self.left is None or self.right is None:
            raise ValueError("a change has neither values nor factors")
        return self.left[start:end] @ self.right.T

    def energy(self) -> float:
        """Squared Frobenius norm."""
        if self.left is not None and self.right is not None:
            grams = [factor.T.astype(np.float64) @ factor for factor in (self.left, self.right)]
            return max(0.0, float((grams[0] * grams[1]).sum()))
        return float(np.square(self.rows(0, self.shape[0]), dtype=np.float64).sum())

    def finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(bool(np.isfinite(part).all()) for part in (self.dense, self.left, self.right) if part is not None)

    def projected(self, left: Floats, right: Floats) -> Floats:
        """left.T @ delta @ right, fp32."""
        if self.left is not None and self.right is not None:
            return (left.T @ self.left) @ (self.right.T @ right)
        return left.T @ (self.rows(0, self.shape[0]) @ right)

    def directions(self, rank: int) -> Bases:
        """The strongest singular vectors, fewer than `rank` where the matrix has fewer.

        Those of a product are exact (QR of both factors); those of a matrix come from a randomised decomposition with a
        fixed seed and two steps of power iteration (Halko et al. 2011, https://arxiv.org/abs/0909.4061).
        """
        if self.left is not None and self.right is not None:
            return _of_product(self.left.astype(np.float64), self.right.astype(np.float64), rank)
        return _of_matrix(self.rows(0, self.shape[0]), rank)


@dataclass
class Changes:
    """The changes of one skill, each by the name of what it changes.

    Attributes:
        skill: opened.
        base: the model that it goes on, if known.
        weight: factor of all deltas.
        entries: key -> entry. The key is the base's tensor where only one entry changes that, so that skills whose
            installed names differ meet; the entry's own name otherwise.
    """

    skill: Skill
    base: Checkpoint | None = None
    weight: float = 1.0
    entries: Mapping[str, TensorEntry] = field(init=False)

    def __post_init__(self) -> None:
        tensors = self.skill.manifest.tensors
        self._named = {entry.name: entry for entry in tensors}
        uses = Counter(entry.reference for entry in tensors if entry.reference is not None)
        self.entries = {_key(entry, uses): entry for entry in tensors}

    def read(self, key: str) -> Change | None:
        """The change of one tensor; None if the skill does not touch it.

        Raises:
            NotComparableError: it is not known what is added, or that makes no sense.
            WrongBaseError: the base is another one.
            DamagedSkillError: the coded streams make no sense.
        """
        entry = self.entries.get(key)
        if entry is None:
            return None
        factors = self.skill.factors(entry)
        if factors is not None:
            change = Change.of_factors(factors.left * np.float32(self.weight), factors.right)
        else:
            delta = delta_of(self.skill, entry, self._named, self.base)
            if delta is None:
                return None
            change = Change.of_dense(delta if self.weight == 1 else delta * np.float32(self.weight))
        if not change.finite():
            raise NotComparableError("it holds NaN or infinity")
        return change


def _key(entry: TensorEntry, uses: Mapping[str, int]) -> str:
    reference = entry.reference
    return reference if reference is not None and uses[reference] == 1 else entry.name


def _of_product(left: Doubles, right: Doubles, rank: int) -> Bases:
    (rows, inner_rows), (columns, inner_columns) = np.linalg.qr(left), np.linalg.qr(right)
    near, values, far = np.linalg.svd(inner_rows @ inner_columns.T)
    size = _meaningful(values, rank)
    return Bases(rows @ near[:, :size], columns @ far[:size].T)


def _of_matrix(matrix: Floats, rank: int) -> Bases:
    size = min(rank + _SPARE, *matrix.shape)
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], size), np.float32)
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(_POWER_STEPS):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    near, values, far = np.linalg.svd((basis.T @ matrix).astype(np.float64), full_matrices=False)
    size = _meaningful(values, rank)
    return Bases(basis.astype(np.float64) @ near[:, :size], far[:size].T)


def _meaningful(values: Doubles, rank: int) -> int:
    """How many directions are more than rounding errors, at most `rank`."""
    if not values.size or not values[0] > 0:
        return 0
    return min(rank, int((values > 1e-6 * values[0]).sum()))
