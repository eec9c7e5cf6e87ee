"""What a skill adds to one tensor, as the product of two thin matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.codecs import AdapterFactors, LowRank
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.protocol import Layout

if TYPE_CHECKING:
    from skillpack.codecs.factors import LoraFactors
    from skillpack.manifest import TensorEntry
    from skillpack.skill import Skill
    from skillpack.tensors import Doubles, Floats, Tensor

USUAL_ENERGY: Final = 0.9999
"""Share of the squared norm that a truncated delta keeps: a relative error of 1 %."""
_NEGLIGIBLE: Final = 1e-6
"""Relative errors below this are those of fp32 arithmetic."""


class Product(NamedTuple):
    """A delta as left @ right.

    Attributes:
        left: fp64 [rows, rank].
        right: fp64 [rank, columns].
        error: Frobenius norm of what was left out, relative to that of the delta.
        stored: the factors of the adapter that they are from, if they have not been changed.
    """

    left: Doubles
    right: Doubles
    error: float = 0.0
    stored: LoraFactors | None = None

    @property
    def rank(self) -> int:
        """Number of columns of `left`."""
        return self.left.shape[1]


class Limit(NamedTuple):
    """How much of a delta is to be kept.

    Attributes:
        rank: at most so many directions; None for any number.
        energy: so much of the squared norm; None for all where the factors are known, else `USUAL_ENERGY`.
    """

    rank: int | None = None
    energy: float | None = None


def known_product(skill: Skill, entry: TensorEntry, shape: tuple[int, int]) -> Product | None:
    """The delta as it was coded, where that is a product and the tensor is a matrix of this shape.

    Args:
        skill: the skill.
        entry: with a part of its own.
        shape: rows and columns of the tensor as an adapter sees it.

    Raises:
        DamagedSkillError: the coded streams make no sense.
    """
    if entry.main is None or entry.common_rows is not None:
        return None
    if entry.main.codec == AdapterFactors.name:
        layout = Layout(entry.dtype, entry.shape)
        factors = AdapterFactors().read(entry.main.parameters, skill.main_chunks(entry), layout)
        left, right = factors.matrices()
        return Product(left, right, 0.0, factors) if (left.shape[0], right.shape[1]) == shape else None
    if entry.main.codec != LowRank.name or matrix_shape(entry.shape) != shape:
        return None
    found = LowRank().integers(entry.main.parameters, skill.main_chunks(entry), shape)
    if found is None:
        return Product(np.zeros((shape[0], 0)), np.zeros((0, shape[1])))
    # A power of two on the right leaves its integers as they are in any floating-point dtype that holds them.
    scales = np.asarray(found.inner * found.outer, np.float64)
    half = np.exp2(np.rint(np.log2(scales) / 2)) if found.outer > 0 else np.ones_like(scales)
    return Product(found.left * (scales / half), (found.right * half).T)


def delta_of(skill: Skill, entry: TensorEntry, reference: Tensor) -> Floats:
    """What the skill adds, fp32 of the tensor's shape."""
    return skill.decode(entry, reference).difference(entry.name, reference)


def decomposed(delta: Floats, limit: Limit) -> Product:
    """The best product of the rank that a limit allows, by the singular value decomposition.

    Args:
        delta: fp32 [rows, columns].
        limit: see there.
    """
    analysis = LowRank(keep=0.0).analyse(delta, 1.0)
    values = analysis["values"].astype(np.float64)
    kept, error = _kept(analysis["all_values"].astype(np.float64), limit, USUAL_ENERGY)
    roots = np.sqrt(values[:kept])
    left, right = (analysis[side][:, :kept].astype(np.float64) * roots for side in ("left", "right"))
    return Product(left, right.T, error)


def truncated(found: Product, limit: Limit) -> Product:
    """The same product with fewer directions, if a limit asks for that."""
    if not found.rank or (limit.energy is None and (limit.rank is None or found.rank <= limit.rank)):
        return found
    (rows, inner_rows), (columns, inner_columns) = np.linalg.qr(found.left), np.linalg.qr(found.right.T)
    near, values, far = np.linalg.svd(inner_rows @ inner_columns.T, full_matrices=False)
    kept, error = _kept(values, limit, None)
    if kept >= found.rank:
        return found
    roots = np.sqrt(values[:kept])
    return Product((rows @ near[:, :kept]) * roots, (columns @ far[:kept].T * roots).T, error)


def missed(ours: Product, wanted: Product) -> float:
    """Relative Frobenius distance of one product from another, without forming either; 0 for that of fp32."""
    left, right = np.hstack([ours.left, -wanted.left]), np.vstack([ours.right, wanted.right])
    total = float(np.sum((wanted.left.T @ wanted.left) * (wanted.right @ wanted.right.T)))
    (_, inner_left), (_, inner_right) = np.linalg.qr(left), np.linalg.qr(right.T)
    rest = inner_left @ inner_right.T
    error = float(np.linalg.norm(rest)) / math.sqrt(total) if total > 0 else 0.0
    return error if error > _NEGLIGIBLE else 0.0


def _kept(values: Doubles, limit: Limit, usual: float | None) -> tuple[int, float]:
    """How many of the singular values to keep, and the relative error of leaving out the others."""
    energies = np.square(values)
    total, energy = float(energies.sum()), limit.energy or usual
    if not total:
        return 0, 0.0
    count = int((values > 0).sum())
    if energy is not None:
        count = min(count, int(np.searchsorted(np.cumsum(energies), energy * total)) + 1)
    count = min(count, limit.rank or count)
    return count, math.sqrt(float(energies[count:].sum()) / total)
