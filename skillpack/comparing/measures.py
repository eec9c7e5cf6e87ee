"""How two deltas of one tensor stand to each other: sums that add up over tensors, and the figures made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from skillpack.comparing.changes import Bases, Change
    from skillpack.tensors import Floats

_BLOCK: Final = 1 << 18
"""Elements that are worked on at a time."""


@dataclass(frozen=True)
class Figures:
    """How two skills stand to each other, on one tensor, one block of layers or in all.

    Attributes:
        cosine: of the two deltas; None if one of them is zero.
        conflict: share of weights that the two pull in opposite directions, among those that both change; 0.5 is what
            chance gives. None if there are none.
        weighted_conflict: the same with every weight counted by the smaller of its two changes, which is the mass
            that is outvoted where TIES elects a sign (Yadav et al. 2023, https://arxiv.org/abs/2306.01708).
        left_overlap: how much of the one's strongest output directions are the other's, from 0 to 1: the normalised
            similarity ||U_A^T U_B||_F^2 / min(r_A, r_B) of the LoRA paper (Hu et al. 2021, section 7.2,
            https://arxiv.org/abs/2106.09685), the mean squared cosine of the principal angles. Of several tensors the
            mean, weighted by the product of both norms. None without matrices that both change.
        right_overlap: the same of the input directions.
        chance_overlap: what random directions would give for either, r / rows and r / columns in the mean.
    """

    cosine: float | None
    conflict: float | None
    weighted_conflict: float | None
    left_overlap: float | None
    right_overlap: float | None
    chance_overlap: float | None


@dataclass(frozen=True)
class Sums:
    """What is added up over tensors for a pair of skills.

    Attributes:
        first: squared norm of the first delta.
        second: squared norm of the second.
        inner: inner product of both.
        both: weights that both change.
        opposite: those of them with opposite signs.
        agreed: sum of the smaller magnitudes of weights with the same sign.
        outvoted: sum of the smaller magnitudes of weights with opposite signs.
        weight: product of both norms, of the tensors with directions to compare.
        left: that, times the overlap of output directions.
        right: that, times the overlap of input directions.
        chance: that, times what random directions would give.
    """

    first: float = 0.0
    second: float = 0.0
    inner: float = 0.0
    both: int = 0
    opposite: int = 0
    agreed: float = 0.0
    outvoted: float = 0.0
    weight: float = 0.0
    left: float = 0.0
    right: float = 0.0
    chance: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def figures(self) -> Figures:
        """The figures that these sums make."""
        norms = math.sqrt(self.first) * math.sqrt(self.second)
        return Figures(
            cosine=max(-1.0, min(1.0, self.inner / norms)) if norms else None,
            conflict=self.opposite / self.both if self.both else None,
            weighted_conflict=_share(self.outvoted, self.outvoted + self.agreed),
            left_overlap=_share(self.left, self.weight),
            right_overlap=_share(self.right, self.weight),
            chance_overlap=_share(self.chance, self.weight),
        )


def compare_changes(changes: Sequence[Change | None], rank: int) -> dict[tuple[int, int], Sums]:
    """Sums of every pair of skills for one tensor.

    Args:
        changes: of each skill; None where it does not touch the tensor. All have one shape.
        rank: strongest directions that are compared.

    Returns:
        Indices of two skills -> sums; pairs of which neither touches the tensor are left out.
    """
    present = {index: change for index, change in enumerate(changes) if change is not None}
    energies = dict.fromkeys(present, 0.0)
    pairs = {pair: Sums() for pair in combinations(present, 2)}
    for blocks in _blocks(present):
        exact = {index: block.astype(np.float64).reshape(-1) for index, block in blocks.items()}
        for index, values in exact.items():
            energies[index] += float(values @ values)
        for one, other in pairs:
            inner = float(exact[one] @ exact[other])
            pairs[one, other] += _block_sums(blocks[one], blocks[other], inner)
    directions = {index: change.directions(rank) for index, change in present.items() if _has_directions(change)}
    result = {}
    for one, other in combinations(range(len(changes)), 2):
        if one not in present and other not in present:
            continue
        sums = pairs.get((one, other), Sums()) + Sums(energies.get(one, 0.0), energies.get(other, 0.0))
        if one in directions and other in directions:
            sums += _overlaps(directions[one], directions[other], sums)
        result[one, other] = sums
    return result


def shared_energy(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """How much two distributions of energy over tensors have in common: the sum of the smaller shares, 0 to 1.

    >>> shared_energy({"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 1.0})
    0.75
    """
    totals = [sum(energies.values()) for energies in (first, second)]
    if not all(totals):
        return 0.0
    return sum(min(first[name] / totals[0], second.get(name, 0.0) / totals[1]) for name in first)


def _blocks(present: Mapping[int, Change]) -> Iterator[dict[int, Floats]]:
    """Some rows of every change at a time."""
    rows, columns = next((change.shape for change in present.values()), (0, 0))
    step = max(1, _BLOCK // max(1, columns))
    for start in range(0, rows, step):
        yield {index: change.rows(start, min(rows, start + step)) for index, change in present.items()}


def _block_sums(first: Floats, second: Floats, inner: float) -> Sums:
    both = (first != 0) & (second != 0)
    opposite = both & (np.signbit(first) != np.signbit(second))
    smaller = np.minimum(np.abs(first), np.abs(second))
    outvoted = float(smaller.sum(dtype=np.float64, where=opposite))
    agreed = float(smaller.sum(dtype=np.float64)) - outvoted
    return Sums(
        inner=inner,
        both=int(np.count_nonzero(both)),
        opposite=int(np.count_nonzero(opposite)),
        agreed=max(0.0, agreed),
        outvoted=outvoted,
    )


def _has_directions(change: Change) -> bool:
    return min(change.shape) > 1


def _overlaps(one: Bases, other: Bases, sums: Sums) -> Sums:
    ranks = one.left.shape[1], other.left.shape[1]
    if not all(ranks):
        return Sums()
    weight = math.sqrt(sums.first) * math.sqrt(sums.second)
    left, right = (
        float(np.square(mine.T @ theirs).sum()) / min(ranks)
        for mine, theirs in ((one.left, other.left), (one.right, other.right))
    )
    chance = (max(ranks) / len(one.left) + max(ranks) / len(one.right)) / 2
    return Sums(weight=weight, left=weight * left, right=weight * right, chance=weight * chance)


def add_up(parts: Iterable[Sums]) -> Sums:
    """The sums over several tensors."""
    total = Sums()
    for part in parts:
        total += part
    return total


def _share(part: float, whole: float) -> float | None:
    # Rounding can take it over 1.
    return min(1.0, part / whole) if whole else None
