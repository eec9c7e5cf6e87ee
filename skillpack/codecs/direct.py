r"""Direct: the delta's entries themselves, quantised with one step.

Where the spectrum is flat no few directions stand out, and a factorised form pays twice for each entry. Rounding is
dithered by default, so that what is decoded is unbiased: a shrunken delta is wrong in the same direction in every
layer at once, while zero-mean noise averages out.

An entry's size is expected to be the root mean square of its row times that of its column relative to all columns. Its
logarithm in steps, in half octaves, is the context under which it is coded: entries of quiet rows and columns are
nearly always zero, and such a context says so at the cost of a small fraction of a bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from skillpack.codecs.dead_zone import toward_zero
from skillpack.codecs.dither import (
    UNIT,
    VARIANCE,
    Dither,
    dither_key,
    dithered,
    gaussian_bits,
    groups,
    is_fine,
    read_groups,
)
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.protocol import DELTA, Analysis, Cost, Encoding, Layout, Parameters
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader, Group
    from skillpack.codecs.noise import Noise, Seed
    from skillpack.codecs.tokens import Integers
    from skillpack.tensors import Doubles, Floats, Tensor

_CHUNK: Final = 1 << 20
"""Entries in a chunk, rounded to whole rows."""
_PER_OCTAVE: Final = 2
"""Contexts for each doubling of the expected size of an entry."""
_LEVELS: Final = (-24, 48)
"""Contexts. Entries expected to be below 2**-12 steps are left out; those of more than 2**24 are not told apart."""
_REACH: Final = 200
"""Levels of rows and columns exceed the typical one by at most this."""
_QUIET: Final = -15
"""Level of a row or column of zeros, the least that takes no raw bits; others are above it."""
_MAX_LEVEL: Final = 2000
_FINEST: Final = 2.0**-24
"""Smallest step relative to the largest entry; an fp32 delta is no more precise."""
_SAMPLES: Final = 65
"""Rows and columns that a prediction looks at."""
_SCALES: Final = ("direct.rows", "direct.columns")


@dataclass(frozen=True)
class Direct:
    """The entry-wise codec.

    Attributes:
        dead_zone: None for subtractive dither. Otherwise magnitudes are rounded down where their fraction is less
            than this: least squared error per bit, but biased towards zero.
        name: the codec's name in a manifest.
    """

    dead_zone: float | None = None
    name: str = "direct"

    def analyse(self, delta: Floats, finest: float) -> Analysis:
        """The delta itself, and the mean squares and greatest magnitude that `encode_rows` needs."""
        del finest
        return {DELTA: delta, **mean_squares(delta.__getitem__, delta.shape)}

    def encode(self, analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """See `LossyCodec`; distortion is the expected squared error."""
        return self.encode_rows(analysis[DELTA].__getitem__, analysis, step, seed)

    def encode_rows(self, rows: Callable[[slice], Floats], analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """Write down a matrix that need not be there as a whole.

        Args:
            rows: gives rows of the matrix, fp32, the same ones at every call.
            analysis: its `mean_squares`.
            step: quantisation step, in the units of the matrix.
            seed: of the rounding.
        """
        shape = analysis["rows"].size, analysis["columns"].size
        step = max(step, _FINEST * float(analysis["peak"][0]), float(np.finfo(np.float32).tiny))
        level, row_levels, column_levels = _levels(analysis, step)

        parameters: Parameters = {"step": step, "level": level}
        if self.dead_zone is None:
            parameters["dither"] = dither_key(seed)

        def chunks() -> Iterator[Chunk]:
            dither, noise = Dither.announced(parameters), seed.noise()
            yield list(zip(_SCALES, (row_levels, column_levels), strict=True))
            for block in _row_blocks(shape):
                values = (rows(block) / np.float32(step)).reshape(-1)
                contexts = _contexts(level, row_levels[block], column_levels)
                yield list(self._grouped(contexts, values, dither, noise))

        squares = self._distortion(rows, shape, step)
        return Encoding(parameters, chunks, squares)

    def predicted(self, analysis: Analysis, step: float, share: float = 1.0) -> Cost:
        """What an analysed matrix will cost at `step`, were its entries Gaussian.

        Args:
            analysis: of the matrix, or its `mean_squares`.
            step: quantisation step.
            share: of the energy that there is; the rest is coded in some other way.
        """
        rows, columns = (
            _sample(analysis[side]) * weight for side, weight in (("rows", math.sqrt(share) / step), ("columns", 1.0))
        )
        count = analysis["rows"].size * analysis["columns"].size
        bits = float(gaussian_bits(np.multiply.outer(rows, columns)).mean())
        return Cost(VARIANCE * step**2 * count, bits * count)

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`."""
        del reference
        shape = matrix_shape(layout.shape)
        step, level = _checked(parameters)
        dither = Dither.announced(parameters)
        reader = next(chunks)
        row_levels, column_levels = (reader.take(name, count) for name, count in zip(_SCALES, shape, strict=True))
        reader.finish()
        delta = np.zeros(shape, np.float32)
        for block in _row_blocks(shape):
            reader = next(chunks)
            units = _ungrouped(reader, _contexts(level, row_levels[block], column_levels), dither)
            reader.finish()
            # A hostile step may overflow to infinity, which harms nobody.
            with np.errstate(over="ignore"):
                delta[block] = units.reshape(delta[block].shape) * (step / UNIT)
        return delta.reshape(layout.shape)

    def _grouped(
        self, contexts: npt.NDArray[np.int8], values: Floats, dither: Dither | None, noise: Noise
    ) -> Iterator[Group]:
        in_order = values[np.argsort(contexts, kind="stable")]
        for level, place in _segments(contexts):
            name, chosen = f"direct.{level}", in_order[place]
            if dither is None:
                yield name, toward_zero(chosen, self.dead_zone or 0.0)
                continue
            offsets = dither.take(chosen.size)
            yield from groups(name, dithered(chosen, offsets, noise), offsets, fine=is_fine(level))

    def _distortion(self, rows: Callable[[slice], Floats], shape: tuple[int, int], step: float) -> float:
        if self.dead_zone is None:
            return VARIANCE * step**2 * math.prod(shape)
        squares = 0.0
        for block in _row_blocks(shape):
            values = rows(block) / np.float32(step)
            squares += float(np.square(values - toward_zero(values, self.dead_zone), dtype=np.float64).sum())
        return squares * step**2


def mean_squares(rows: Callable[[slice], Floats], shape: tuple[int, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """Mean square of each row, of each column relative to that of all, and the greatest magnitude.

    Args:
        rows: gives rows of a matrix, fp32.
        shape: of the matrix.
    """
    row_sums, column_sums, peak = np.zeros(shape[0]), np.zeros(shape[1]), 0.0
    for block in _row_blocks(shape):
        values = rows(block)
        squares = np.square(values, dtype=np.float64)
        row_sums[block] = squares.sum(axis=1)
        column_sums += squares.sum(axis=0)
        peak = max(peak, float(values.max(initial=0)), -float(values.min(initial=0)))
    total = float(row_sums.sum())
    relative = column_sums * (shape[1] / total) if total else np.ones(shape[1])
    return {
        # Roots, since squares of what fp32 can hold may exceed it.
        "rows": np.sqrt(row_sums / max(1, shape[1])).astype(np.float32),
        "columns": np.sqrt(relative).astype(np.float32),
        "peak": np.array([peak], np.float32),
    }


def _levels(analysis: Analysis, step: float) -> tuple[int, Integers, Integers]:
    """The typical row's level, those of the rows relative to it, and those of the columns, all in half octaves."""
    rows, columns = (
        _half_octaves(analysis[side].astype(np.float64) / unit) for side, unit in (("rows", step), ("columns", 1.0))
    )
    loud = rows[analysis["rows"] > 0]
    # The loudest row must not be out of reach, however quiet the others are.
    level = max(int(np.median(loud)), int(loud.max()) - _REACH) if loud.size else 0
    relative = {"rows": rows - level, "columns": columns}
    cut = (np.where(analysis[side] > 0, np.clip(relative[side], _QUIET + 1, _REACH), _QUIET) for side in relative)
    return level, next(cut), next(cut)


def _sample(sizes: Floats) -> Doubles:
    """A few of many values that are distributed like all."""
    ranks = np.linspace(0, max(0, sizes.size - 1), min(sizes.size, _SAMPLES)).astype(np.int64)
    return np.sort(sizes)[ranks].astype(np.float64)


def _half_octaves(sizes: Doubles) -> Integers:
    return np.rint(_PER_OCTAVE * np.log2(np.maximum(sizes, 2.0**-300))).astype(np.int64)


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    size = max(1, _CHUNK // max(1, shape[1]))
    for first in range(0, shape[0], size):
        yield slice(first, min(shape[0], first + size))


def _contexts(level: int, rows: Integers, columns: Integers) -> npt.NDArray[np.int8]:
    """Level of each entry of a block of rows, in C order."""
    # All parts are cut to what an int16 sum holds, zero rows and columns far below everything else.
    near, far = (
        np.where(levels == _QUIET, -(1 << 13), np.clip(levels, -_REACH, _REACH)).astype(np.int16)
        for levels in (rows, columns)
    )
    near += np.int16(level)
    return np.clip(near[:, None] + far, *_LEVELS).astype(np.int8).reshape(-1)


def _segments(contexts: npt.NDArray[np.int8]) -> Iterator[tuple[int, slice]]:
    """Level, and place when sorted, of each context that occurs and is coded."""
    lowest = _LEVELS[0]
    ends = np.cumsum(np.bincount(contexts.astype(np.int16) - lowest, minlength=1)).tolist()
    for level, (first, last) in enumerate(pairwise(ends), lowest + 1):
        if first < last:
            yield level, slice(first, last)


def _ungrouped(reader: ChunkReader, contexts: npt.NDArray[np.int8], dither: Dither | None) -> npt.NDArray[np.int64]:
    """The entries of a block, in units of step / UNIT."""
    in_order = np.zeros(contexts.size, np.int64)
    for level, place in _segments(contexts):
        name, count = f"direct.{level}", place.stop - place.start
        if dither is None:
            in_order[place] = UNIT * reader.take(name, count).astype(np.int64)
        else:
            in_order[place] = read_groups(reader, name, dither.take(count), fine=is_fine(level))
    units = np.empty_like(in_order)
    units[np.argsort(contexts, kind="stable")] = in_order
    return units


def _checked(parameters: Mapping[str, Any]) -> tuple[float, int]:
    step, level = float(parameters["step"]), parameters["level"]
    if not math.isfinite(step) or type(level) is not int or abs(level) > _MAX_LEVEL:
        raise DamagedSkillError("a direct part has a step or a level out of range")
    return step, level
