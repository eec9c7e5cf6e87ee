"""A few entries of a matrix: where they are, and what they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from benchmarks.baselines.grids import Layout, Quantised, round_to_nearest

if TYPE_CHECKING:
    from benchmarks.baselines.stream import Integers, Reader, Writer

Positions = Literal["golomb", "seed"]
"""``golomb``: the gaps between the entries are stored. ``seed``: the entries were chosen by a generator that the reader
runs again, so that nothing is stored."""

UNROUNDED = 16
"""Bits at which values are stored as fp16, without grids."""


@dataclass(frozen=True)
class Halves:
    """Values in fp16, relative to their greatest magnitude.

    Attributes:
        unit: fp32 scalar.
        halves: fp16 (count,).
    """

    unit: torch.Tensor
    halves: torch.Tensor

    def values(self) -> torch.Tensor:
        """fp32 (count,)."""
        return self.halves.float() * self.unit


@dataclass(frozen=True)
class Entries:
    """Some entries of a matrix, all others being zero; see `Coded`.

    Attributes:
        shape: of the matrix.
        positions: ascending, in row-major order.
        is_stored: whether the positions are, or are known from a seed.
        values: their values.
    """

    shape: tuple[int, int]
    positions: Integers
    is_stored: bool
    values: Halves | Quantised

    def matrix(self) -> torch.Tensor:
        """See `Coded`."""
        return scattered(self.shape, self.positions, self.values.values().reshape(-1))

    def write(self, stream: Writer) -> None:
        """See `Coded`."""
        if self.is_stored:
            stream.positions(self.positions, self.shape[0] * self.shape[1])
        if not self.positions.size:
            return
        if isinstance(self.values, Quantised):
            self.values.write(stream)
        else:
            stream.array(self.values.unit)
            stream.array(self.values.halves)

    @classmethod
    def read(cls, stream: Reader, shape: tuple[int, int], layout: Layout, positions: Integers | None) -> Entries:
        """Inverse of `write`; `positions` where they are known."""
        found = stream.positions(shape[0] * shape[1]) if positions is None else positions
        values: Halves | Quantised
        if layout.bits == UNROUNDED or not found.size:
            count = found.size
            unit = stream.array(torch.float32) if count else torch.ones(())
            values = Halves(unit, stream.array(torch.float16, count))
        else:
            values = Quantised.read(stream, 1, found.size, layout)
        return cls(shape, found, positions is None, values)


def entries(matrix: torch.Tensor, positions: Integers, layout: Layout, *, scale: float, stored: bool) -> Entries:
    """Code the entries of an fp32 matrix at ascending positions, times `scale`."""
    shape = matrix.shape[0], matrix.shape[1]
    kept = matrix.reshape(-1)[torch.from_numpy(positions)] * scale
    if layout.bits == UNROUNDED or not positions.size:
        unit = kept.abs().max().clamp(min=torch.finfo(torch.float32).tiny) if positions.size else torch.ones(())
        return Entries(shape, positions, stored, Halves(unit, (kept / unit).half()))
    return Entries(shape, positions, stored, round_to_nearest(kept[None], layout))


def scattered(shape: tuple[int, int], positions: Integers, values: torch.Tensor) -> torch.Tensor:
    """An fp32 matrix with `values` at row-major positions and zeros elsewhere."""
    flat = torch.zeros(shape[0] * shape[1])
    flat[torch.from_numpy(positions)] = values
    return flat.reshape(shape)


def random_positions(size: int, share: float, *key: str | int) -> Integers:
    """Each position below `size` with probability `share`, independently; the same ones for the same key."""
    if share >= 1:
        return np.arange(size)
    words = generator(*key).random_raw(-(-size // 2)).astype("<u8", copy=False).view("<u4")[:size]
    return np.flatnonzero(words < round(share * 2**32))


def generator(*key: str | int) -> np.random.Philox:
    """A generator whose raw numbers are the same with every numpy."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def greatest(matrix: torch.Tensor, share: float) -> Integers:
    """Ascending positions of the given share of the entries, those of the greatest magnitude."""
    count = round(share * matrix.numel())
    magnitudes = matrix.reshape(-1).abs()
    return magnitudes.topk(count, sorted=False).indices.sort().values.numpy() if count else np.zeros(0, np.int64)
