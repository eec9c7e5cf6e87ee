"""Singular triplets in bands of falling precision, as Delta-CoMe codes them (Ping et al., NeurIPS 2024).

Band after band, the right factor is rounded so that the error is small on the layer's inputs x, and then the left
factor so that it is small on what it is fed with, S V^T x, V being rounded by then. Without the inputs' second moment
both are rounded to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from benchmarks.baselines.gptq import gptq
from benchmarks.baselines.grids import Layout, Quantised, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.baselines.grids import Zero
    from benchmarks.baselines.singular import Triplets
    from benchmarks.baselines.stream import Reader, Writer

LeftGroups = Literal["rank", "outputs"]
"""Which entries of the left factor share a grid: those of one output in several triplets of a band (as released, which
makes groups of two in a band of two), or those of one triplet in several outputs."""


class Band(NamedTuple):
    """Triplets `first` to `last` (not included), in `bits` bits."""

    bits: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """How the triplets of one matrix are coded.

    Attributes:
        bands: one after another from 0 to the rank.
        group: entries that share a grid.
        zero: see `Zero`.
        left_groups: see `LeftGroups`.
    """

    bands: tuple[Band, ...]
    group: int
    zero: Zero
    left_groups: LeftGroups

    @property
    def rank(self) -> int:
        """Triplets coded."""
        return self.bands[-1].last if self.bands else 0

    def layout(self, band: Band) -> Layout:
        """The layout of both factors of a band."""
        return Layout(band.bits, self.group, self.zero)


def bands(rank: int, columns: Sequence[Sequence[int]], tail: int) -> tuple[Band, ...]:
    """Bands of `columns`, pairs of bits and number of triplets, and of `tail` bits for the rest up to `rank`.

    >>> bands(230, [(8, 2), (3, 32)], 2)
    (Band(bits=8, first=0, last=2), Band(bits=3, first=2, last=34), Band(bits=2, first=34, last=230))
    >>> bands(5, [(8, 2), (3, 32)], 2)
    (Band(bits=8, first=0, last=2), Band(bits=3, first=2, last=5))
    """
    found, at = [], 0
    for bits, count in [*columns, (tail, rank)]:
        last = min(rank, at + count)
        if last > at:
            found.append(Band(bits, at, last))
        at = last
    return tuple(found)


@dataclass(frozen=True)
class Factors:
    """Coded triplets; see `Coded`.

    Attributes:
        shape: of the matrix.
        plan: bands and groups.
        strengths: singular values, bf16 (rank,).
        rights: of each band the right factor, (triplets, columns).
        lefts: of each band the left factor, (rows, triplets), or transposed where groups are of outputs.
    """

    shape: tuple[int, int]
    plan: Plan
    strengths: torch.Tensor
    rights: list[Quantised]
    lefts: list[Quantised]

    def matrix(self) -> torch.Tensor:
        """See `Coded`."""
        if not self.plan.bands:
            return torch.zeros(self.shape)
        left = torch.cat([_upright(one.values(), self.plan) for one in self.lefts], 1)
        return (left * self.strengths.float()) @ torch.cat([one.values() for one in self.rights])

    def write(self, stream: Writer) -> None:
        """Append the singular values and the factors; the plan is known otherwise."""
        stream.array(self.strengths)
        for right, left in zip(self.rights, self.lefts, strict=True):
            right.write(stream)
            left.write(stream)

    @classmethod
    def read(cls, stream: Reader, shape: tuple[int, int], plan: Plan) -> Factors:
        """Inverse of `write`."""
        strengths = stream.array(torch.bfloat16, plan.rank)
        rights, lefts = [], []
        for band in plan.bands:
            count, layout = band.last - band.first, plan.layout(band)
            rights.append(Quantised.read(stream, count, shape[1], layout))
            sides = (shape[0], count) if plan.left_groups == "rank" else (count, shape[0])
            lefts.append(Quantised.read(stream, *sides, layout))
        return cls(shape, plan, strengths, rights, lefts)


def code(triplets: Triplets, plan: Plan, moment: torch.Tensor | None) -> Factors:
    """Code the leading triplets of a matrix.

    Args:
        triplets: at least `plan.rank` of them.
        plan: bands and groups.
        moment: second moment of the layer's inputs, fp32 (columns, columns); None rounds to nearest.
    """
    shape = triplets.left.shape[0], triplets.right.shape[1]
    strengths = triplets.strengths[: plan.rank].to(torch.bfloat16)
    rights = _rights(triplets.right, plan, moment)
    lefts = []
    for band, right in zip(plan.bands, rights, strict=True):
        part = slice(band.first, band.last)
        fed = None
        if moment is not None:
            carried = strengths[part].float()[:, None] * right.values()
            fed = carried @ moment @ carried.T
        lefts.append(_left(triplets.left[:, part], plan, plan.layout(band), fed))
    return Factors(shape, plan, strengths, rights, lefts)


def _rights(factor: torch.Tensor, plan: Plan, moment: torch.Tensor | None) -> list[Quantised]:
    grids = [fit(factor[band.first : band.last], plan.layout(band)) for band in plan.bands]
    parts = [factor[band.first : band.last] for band in plan.bands]
    if moment is None or not grids:
        return [Quantised(one, one.nearest(part)) for one, part in zip(grids, parts, strict=True)]
    # Rows are independent of each other, so all bands go through GPTQ together.
    tops = torch.cat([torch.full((len(part),), one.layout.top) for one, part in zip(grids, parts, strict=True)])
    steps, lows = torch.cat([one.step() for one in grids]), torch.cat([one.low() for one in grids])
    codes = gptq(torch.cat(parts), steps, lows, tops, moment)
    return [Quantised(one, codes[band.first : band.last]) for one, band in zip(grids, plan.bands, strict=True)]


def _left(factor: torch.Tensor, plan: Plan, layout: Layout, moment: torch.Tensor | None) -> Quantised:
    grids = fit(_upright(factor, plan), layout)
    if moment is None:
        return Quantised(grids, grids.nearest(_upright(factor, plan)))
    codes = gptq(factor, _upright(grids.step(), plan), _upright(grids.low(), plan), layout.top, moment)
    return Quantised(grids, _upright(codes, plan))


def _upright(matrix: torch.Tensor, plan: Plan) -> torch.Tensor:
    """A left factor in the orientation in which it is stored, or back."""
    return matrix if plan.left_groups == "rank" else matrix.T
