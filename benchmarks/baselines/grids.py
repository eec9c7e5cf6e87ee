"""Uniform grids of a few bits between the least and the greatest value of a group of entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from benchmarks.baselines.stream import Reader, Writer

Zero = Literal["grid", "free"]
"""``grid``: zero is a point of the grid, and its number takes the bits of a code (GPTQ's asymmetric grid: the range is
widened to hold zero, and shifted by up to half a step). ``free``: the grid starts at the least value, which takes 16
bits."""


@dataclass(frozen=True)
class Layout:
    """How a matrix is cut into groups: `group` entries of a row share a grid, the last group of a row may be shorter.

    Attributes:
        bits: bits of a code, 1 to 8.
        group: entries.
        zero: where the grid starts.
    """

    bits: int
    group: int
    zero: Zero

    @property
    def top(self) -> int:
        """The greatest code."""
        return 2**self.bits - 1


@dataclass(frozen=True)
class Grids:
    """The grids of a matrix (rows, columns) as they are stored: 16 bits for the step of a group.

    Attributes:
        layout: bits, and which entries share a grid.
        columns: of the matrix.
        unit: what the halves below count in, fp32 scalar; without it the steps of a small delta would underflow.
        steps: distance of two points, fp16 of shape (rows, groups).
        lows: the number of the point that is zero, uint8, or the first point, fp16; of shape (rows, groups).
    """

    layout: Layout
    columns: int
    unit: torch.Tensor
    steps: torch.Tensor
    lows: torch.Tensor

    def step(self) -> torch.Tensor:
        """Distance of two points for each entry, fp32 (rows, columns)."""
        return self._spread(self.steps.float() * self.unit)

    def low(self) -> torch.Tensor:
        """The first point for each entry, fp32 (rows, columns)."""
        if self.layout.zero == "grid":
            return self._spread(self.lows.float() * -(self.steps.float() * self.unit))
        return self._spread(self.lows.float() * self.unit)

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """Codes of the nearest points, uint8 (rows, columns)."""
        return nearest(values, self.step(), self.low(), self.layout.top).to(torch.uint8)

    def _spread(self, groups: torch.Tensor) -> torch.Tensor:
        return groups.repeat_interleave(self.layout.group, 1)[:, : self.columns]


def nearest(values: torch.Tensor, step: torch.Tensor, low: torch.Tensor, top: int | torch.Tensor) -> torch.Tensor:
    """Codes of the nearest points of grids, fp32; where all points are one (step 0), code 0."""
    codes = ((values - low) / torch.where(step > 0, step, torch.inf)).round()
    return torch.minimum(codes.clamp(min=0), torch.as_tensor(top, dtype=codes.dtype))


def fit(values: torch.Tensor, layout: Layout) -> Grids:
    """The grids between the extremes of each group of `values`, fp32 (rows, columns)."""
    groups = _grouped(values, layout.group)
    least, greatest = groups.amin(-1), groups.amax(-1)
    if layout.zero == "grid":
        least, greatest = least.clamp(max=0), greatest.clamp(min=0)
    unit = torch.maximum(greatest, -least).max().clamp(min=torch.finfo(torch.float32).tiny)
    if layout.zero == "free":
        lows = (least / unit).half()
        steps = ((greatest - lows.float() * unit) / layout.top / unit).clamp(min=0).half()
    else:
        steps = ((greatest - least) / layout.top / unit).half()
        lows = nearest(-least, steps.float() * unit, torch.zeros_like(least), layout.top).to(torch.uint8)
    return Grids(layout, values.shape[1], unit, steps, lows)


@dataclass(frozen=True)
class Quantised:
    """A matrix as points of grids.

    Attributes:
        grids: see `Grids`.
        codes: uint8 of shape (rows, columns).
    """

    grids: Grids
    codes: torch.Tensor

    def values(self) -> torch.Tensor:
        """The points, fp32 (rows, columns)."""
        return self.grids.low() + self.codes * self.grids.step()

    def write(self, stream: Writer) -> None:
        """Append unit, steps, starts and codes."""
        grids = self.grids
        stream.array(grids.unit)
        stream.array(grids.steps)
        if grids.layout.zero == "grid":
            stream.codes(grids.lows, grids.layout.bits)
        else:
            stream.array(grids.lows)
        stream.codes(self.codes, grids.layout.bits)

    @classmethod
    def read(cls, stream: Reader, rows: int, columns: int, layout: Layout) -> Quantised:
        """Inverse of `write`."""
        groups = -(-columns // layout.group)
        unit, steps = stream.array(torch.float32), stream.array(torch.float16, rows, groups)
        if layout.zero == "grid":
            lows = torch.from_numpy(stream.codes(rows * groups, layout.bits)).to(torch.uint8).reshape(rows, groups)
        else:
            lows = stream.array(torch.float16, rows, groups)
        codes = torch.from_numpy(stream.codes(rows * columns, layout.bits)).to(torch.uint8).reshape(rows, columns)
        return cls(Grids(layout, columns, unit, steps, lows), codes)


def round_to_nearest(values: torch.Tensor, layout: Layout) -> Quantised:
    """`values`, fp32 (rows, columns), each at the nearest point of its group's grid."""
    grids = fit(values, layout)
    return Quantised(grids, grids.nearest(values))


def _grouped(values: torch.Tensor, group: int) -> torch.Tensor:
    """(rows, groups, group); the last group is filled up with its own last entry, which leaves its extremes alone."""
    missing = -values.shape[1] % group
    filled = torch.cat([values, values[:, -1:].expand(-1, missing)], 1) if missing else values
    return filled.reshape(values.shape[0], -1, group)
