"""Factors of several choices of skills as one batch: for few tokens the number of calls is what counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import torch

from skillpack.grafting.overlay.parts import WIDENED, Factors, Use, add_sparse_product, widened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Group = tuple[tuple[Factors, float], ...]
"""The parts of one choice, each with its weight."""


@dataclass(frozen=True)
class Seats:
    """Rows of a batch, sorted by group and filled up to the same number for each.

    Attributes:
        rows: which row each seat has; int64.
        taken: the seats that are not there to fill up; int64.
        of: the rows that these have; int64.
        pairs: the same two as numbers.
        is_order: the rows are the seats, in this order.
    """

    rows: torch.Tensor
    taken: torch.Tensor
    of: torch.Tensor
    pairs: tuple[tuple[int, int], ...]
    is_order: bool

    @classmethod
    def of_groups(cls, belongs: torch.Tensor, groups: int, device: torch.device) -> Seats:
        """Seats for a batch.

        Args:
            belongs: int64 of shape (rows,), the group of each row or -1.
            groups: how many there are.
            device: where they are needed.
        """
        rows = [(belongs == group).nonzero()[:, 0] for group in range(groups)]
        most = max((len(each) for each in rows), default=0)
        padded = [torch.cat([each, each.new_zeros(most - len(each))]) for each in rows]
        taken = [torch.arange(most) < len(each) for each in rows]
        with torch.inference_mode(False):
            empty = torch.zeros(0, dtype=torch.int64)
            seats, of = torch.cat([*padded, empty]), torch.cat([*rows, empty])
            places = torch.cat([*taken, empty.bool()]).nonzero()[:, 0]
            pairs = tuple(zip(places.tolist(), of.tolist(), strict=True))
            is_order = torch.equal(seats, torch.arange(len(belongs))) and len(places) == len(seats)
            return cls(seats.to(device), places.to(device), of.to(device), pairs, is_order)


@dataclass(frozen=True)
class _Block:
    """What leads to some of the outputs.

    Attributes:
        outputs: which.
        second: of shape (groups, rank, outputs); as narrow as the widest, and small enough to be widened in one go.
    """

    outputs: slice
    second: torch.Tensor


@dataclass(frozen=True)
class _Sparse:
    """What leads one group to the outputs, where it is mostly zeros.

    Attributes:
        columns: what of the first product is meant for it.
        factor: sparse fp32 of shape (outputs, columns).
    """

    columns: slice
    factor: torch.Tensor


class Stack:
    """Factors as one batch, so that each token meets those of its own group and no others.

    Args:
        groups: at least one.
        use: how the module uses its matrix; no lookup.
        device: where the factors are needed. Those of the parts are moved there.

    Attributes:
        groups: in the order of the batch.
        device: as given.
    """

    def __init__(self, groups: Sequence[Group], use: Use, device: torch.device) -> None:
        self.groups, self.device = tuple(groups), device
        for part, _ in self._parts():
            part.to(device)
        self._rank = max(sum(self._full(part, use, device) for part, _ in group) for group in groups)
        rest = max(sum(part.rank - self._full(part, use, device) for part, _ in group) for group in groups)
        nears, fars = zip(*(part.sides(use) for part, _ in self._parts()), strict=True)
        inputs, outputs = nears[0].shape[0], fars[0].shape[1]
        width = max(1, WIDENED // max(1, len(groups) * self._rank))
        # Shorter ones end in zeros. Products of few tokens take less time with the first factors in this order.
        self._first = torch.zeros((len(groups), self._rank + rest, inputs), dtype=_widest(nears), device=device)
        self._scales = torch.zeros((len(groups), 1, self._rank + rest), device=device)
        ranges = [slice(start, min(start + width, outputs)) for start in range(0, outputs, width)]
        self._blocks = [
            _Block(
                each,
                torch.zeros((len(groups), self._rank, each.stop - each.start), dtype=_widest(fars), device=device),
            )
            for each in ranges
        ]
        self._sparse: list[list[_Sparse]] = [[] for _ in groups]
        for place, group in enumerate(groups):
            self._fill(place, group, use, device)

    def add_to(self, y: torch.Tensor, x: torch.Tensor, seats: Seats) -> None:
        """Add what the deltas make of inputs to outputs, in place.

        Args:
            y: of shape (rows, tokens, outputs), contiguous.
            x: fp32 of shape (rows, tokens, inputs), contiguous.
            seats: which row belongs to which of the groups.
        """
        if y.dtype != torch.float32:
            total = y.float()
            self.add_to(total, x, seats)
            y.copy_(total)
            return
        groups, tokens = len(self.groups), x.shape[1]
        x = (x if seats.is_order else x[seats.rows]).view(groups, -1, x.shape[2])
        reduced = torch.bmm(x, widened(self._first).transpose(1, 2)).mul_(self._scales)
        full = reduced if reduced.shape[2] == self._rank else reduced[:, :, : self._rank]
        for block in self._blocks:
            found = torch.bmm(full, widened(block.second))
            out = y if len(self._blocks) == 1 else y[:, :, block.outputs]
            if seats.is_order:
                out.add_(found.view(out.shape))
            else:
                out.index_add_(0, seats.of, found.view(len(seats.rows), tokens, -1)[seats.taken])
        if reduced.shape[2] > self._rank:
            reduced = reduced.view(len(seats.rows), tokens, -1)
            for seat, row in seats.pairs:
                for each in self._sparse[seat * groups // len(seats.rows)]:
                    add_sparse_product(y[row], reduced[seat, :, each.columns], each.factor, 1.0)

    def _parts(self) -> Iterator[tuple[Factors, float]]:
        return (pair for group in self.groups for pair in group)

    @staticmethod
    def _full(part: Factors, use: Use, device: torch.device) -> int:
        """How much of the rank of a part goes into the batch."""
        return part.full if use is Use.LINEAR and device.type == "cpu" else part.rank

    def _fill(self, place: int, group: Group, use: Use, device: torch.device) -> None:
        start, rest = 0, self._rank
        for part, weight in group:
            near, far = part.sides(use)
            full = self._full(part, use, device)
            columns = slice(start, start + full), slice(rest, rest + part.rank - full)
            for some, where in zip((slice(full), slice(full, None)), columns, strict=True):
                self._first[place, where] = near[:, some].T
                self._scales[place, 0, where] = part.scales[some] * weight
            for block in self._blocks:
                block.second[place, columns[0]] = far[:full, block.outputs]
            if part.sparse is not None and full < part.rank:
                self._sparse[place].append(_Sparse(columns[1], part.sparse))
            start, rest = columns[0].stop, columns[1].stop


def _widest(factors: Sequence[torch.Tensor]) -> torch.dtype:
    """The narrowest dtype that holds all of them."""
    return reduce(torch.promote_types, {factor.dtype for factor in factors})
