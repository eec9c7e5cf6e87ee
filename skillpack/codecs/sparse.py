"""Sparse: single entries, quantised with one step; most of them to zero.

Where only some rows change (embeddings, heads), low rank pays for all of them. Here each row is coded in a context
that follows from its own size, so that a row without change costs a fraction of a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from skillpack.codecs.gaussian import Source
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.protocol import DELTA, Analysis, Encoding, Layout
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader, Group
    from skillpack.codecs.noise import Seed
    from skillpack.tensors import Floats, Tensor

_CHUNK: Final = 1 << 20
_ROWS: Final = "sparse.rows"
_DEAD_ZONE: Final = np.float32(0.6)
_FINEST: Final = 2.0**-24
"""Smallest step relative to the largest entry; an fp32 delta is no more precise."""


@dataclass(frozen=True)
class Sparse:
    """The sparse codec.

    Attributes:
        stochastic: round at random, unbiased, for tensors that keep all their entries. Otherwise magnitudes below
            0.6 step become zero, as suits a tensor in which the largest entries matter.
        name: the codec's name in a manifest; both ways of rounding decode alike.
    """

    stochastic: bool = False
    name: str = "sparse"

    def analyse(self, delta: Floats, finest: float) -> Analysis:
        """The delta itself."""
        del finest
        return {DELTA: delta}

    def encode(self, analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """See `LossyCodec`; distortion is the squared error of this very rounding."""
        delta = analysis[DELTA]
        peak = float(max(delta.max(initial=0), -delta.min(initial=0)))
        step = max(step, _FINEST * peak, float(np.finfo(np.float32).tiny))
        symbols = self._symbols(delta, step, seed)
        levels = _levels(symbols)

        def chunks() -> Iterator[Chunk]:
            yield [(_ROWS, levels)]
            for block in _row_blocks(symbols.shape):
                yield _grouped(symbols[block], levels[block])

        error = float(np.square(symbols * np.float32(step) - delta, dtype=np.float64).sum())
        return Encoding({"step": step}, chunks, error)

    def source(self, analysis: Analysis) -> Source:
        """See `LossyCodec`: the entries that are not zero, Gaussian with the mean square of their row.

        Their places and the mean squares are known.
        """
        delta = analysis[DELTA]
        energies, counts = np.zeros(delta.shape[0]), np.zeros(delta.shape[0])
        for block in _row_blocks(delta.shape):
            energies[block] = np.square(delta[block], dtype=np.float64).sum(axis=1)
            counts[block] = np.count_nonzero(delta[block], axis=1)
        some = counts > 0
        return Source(energies[some] / counts[some], counts[some])

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`."""
        del reference
        shape = matrix_shape(layout.shape)
        step = float(parameters["step"])
        if not math.isfinite(step):
            raise DamagedSkillError("a sparse part has a step out of range")
        reader = next(chunks)
        levels = reader.take(_ROWS, shape[0])
        reader.finish()
        delta = np.zeros(shape, np.float32)
        for block in _row_blocks(shape):
            reader = next(chunks)
            for name, rows in _segments(levels[block]):
                delta[block][rows] = reader.take(name, rows.size * shape[1]).reshape(rows.size, -1) * step
            reader.finish()
        return delta.reshape(layout.shape)

    def _symbols(self, delta: Floats, step: float, seed: Seed) -> npt.NDArray[np.int32]:
        noise = seed.noise()
        symbols = np.empty(delta.shape, np.int32)
        for block in _row_blocks(delta.shape):
            scaled = delta[block] / np.float32(step)
            symbols[block] = noise.round(scaled) if self.stochastic else _toward_zero(scaled)
        return symbols


def _toward_zero(values: Floats) -> Floats:
    return np.sign(values) * np.floor(np.abs(values) + (1 - _DEAD_ZONE))


def _levels(symbols: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """0 for a row of zeros, otherwise log2 of the mean magnitude in half octaves, counted from one entry per row."""
    lowest = 1 / max(1, symbols.shape[1])
    means = np.abs(symbols).sum(axis=1, dtype=np.float64) * lowest
    return np.where(means > 0, 1 + np.rint(2 * np.log2(np.maximum(means, lowest) / lowest)), 0).astype(np.int64)


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    size = max(1, _CHUNK // max(1, shape[1]))
    for first in range(0, shape[0], size):
        yield slice(first, min(shape[0], first + size))


def _segments(levels: npt.NDArray[np.int64]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Context and rows of each level above zero."""
    for level in np.unique(levels[levels > 0]).tolist():
        yield f"sparse.{level}", np.flatnonzero(levels == level)


def _grouped(symbols: npt.NDArray[np.int32], levels: npt.NDArray[np.int64]) -> list[Group]:
    return [(name, symbols[rows].reshape(-1)) for name, rows in _segments(levels)]
