"""Lossless: how many representable numbers lie between the base's value and the tuned one.

Floating-point numbers of one format are put in order and counted; a weight's change is a small integer, its distance
in units in the last place. How large a distance to expect follows from the size of the change in this row and in this
column and from the exponent of the base's value; that is the context under which it is coded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.protocol import Encoding, Layout
from skillpack.errors import DamagedSkillError
from skillpack.tensors import Floats, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader, Group
    from skillpack.codecs.tokens import Integers

_CHUNK: Final = 1 << 20
"""Elements in a chunk, rounded to whole rows."""
_PER_OCTAVE: Final = 4
"""Contexts for each doubling of the expected distance."""
_SCALE: Final = "exact.scale"
_LOWEST: Final = -24
_HIGHEST: Final = {"BF16": 40, "F16": 48, "F32": 96}
"""Largest context, _PER_OCTAVE times the log2 of the expected distance in units in the last place."""


class _Format(NamedTuple):
    width: int
    mantissa: int
    bias: int


_FORMATS: Final = {"BF16": _Format(16, 7, 127), "F16": _Format(16, 10, 15), "F32": _Format(32, 23, 127)}


class Exact:
    """The lossless codec for BF16, F16 and F32."""

    name = "exact"
    dtypes = frozenset(_FORMATS)

    def encode(self, reference: Tensor | None, tuned: Tensor) -> Encoding:
        """See `LosslessCodec`; NaN and infinity are kept bit for bit."""
        if reference is None:
            raise ValueError("the exact codec needs a reference")
        shape = matrix_shape(tuned.shape)
        start = _cast(reference, tuned.dtype)
        rows, columns = _scales(start, tuned, shape)
        before, after = start.bits().reshape(shape), tuned.bits().reshape(shape)

        def chunks() -> Iterator[Chunk]:
            yield [(_SCALE, np.diff(rows, prepend=0)), (_SCALE, np.diff(columns, prepend=0))]
            for block in _row_blocks(shape):
                contexts = _contexts(before[block], rows[block], columns, tuned.dtype)
                distances = _ordered(after[block]) - _ordered(before[block])
                yield _grouped(contexts, distances.reshape(-1), tuned.dtype)

        return Encoding({}, chunks)

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Tensor:
        """See `Codec`."""
        del parameters
        if reference is None or layout.dtype not in _FORMATS:
            raise DamagedSkillError("an exact part without a floating-point reference")
        shape = matrix_shape(layout.shape)
        before = _cast(reference, layout.dtype).bits().reshape(shape)
        reader = next(chunks)
        rows, columns = (np.cumsum(reader.take(_SCALE, count)) for count in shape)
        reader.finish()
        bits = np.empty(shape, before.dtype)
        for block in _row_blocks(shape):
            contexts = _contexts(before[block], rows[block], columns, layout.dtype)
            reader = next(chunks)
            distances = _ungrouped(reader, contexts, layout.dtype).reshape(before[block].shape)
            reader.finish()
            bits[block] = _unordered(_ordered(before[block]) + distances, before.dtype)
        return Tensor(layout.dtype, layout.shape, bits.reshape(-1).view(np.uint8))


def _cast(reference: Tensor, dtype: str) -> Tensor:
    return reference if reference.dtype == dtype else Tensor.from_float32(reference.float32(), dtype)


def _row_blocks(shape: tuple[int, int]) -> Iterator[slice]:
    size = max(1, _CHUNK // max(1, shape[1]))
    for first in range(0, shape[0], size):
        yield slice(first, min(shape[0], first + size))


def _ordered(bits: npt.NDArray[Any]) -> Integers:
    """Patterns of sign and magnitude as integers in the order of the numbers; -0 comes just before +0.

    Differences of 16-bit patterns fit into int32.
    """
    width = 8 * bits.dtype.itemsize
    values: Integers = bits.view(f"i{bits.dtype.itemsize}").astype(_place_type(bits.dtype.itemsize))
    # All ones where the sign is set: the magnitude's complement is -1 - magnitude. Branches would cost five times that.
    negative = values >> (width - 1)
    values &= (1 << (width - 1)) - 1
    values ^= negative
    return values


def _place_type(itemsize: int) -> type[np.signedinteger[Any]]:
    return np.int32 if itemsize == 2 else np.int64


def _unordered(places: Integers, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Inverse of `_ordered`; changes `places`."""
    negative = places >> (8 * places.itemsize - 1)
    places ^= negative
    negative &= 1 << (8 * dtype.itemsize - 1)
    places |= negative
    return places.astype(dtype)


def _scales(start: Tensor, tuned: Tensor, shape: tuple[int, int]) -> tuple[Integers, Integers]:
    """Mean change of each row, and of each column relative to the mean of all, on a scale of a quarter octave."""
    rows, columns = np.zeros(shape[0]), np.zeros(shape[1])
    before, after = (tensor.bits().reshape(shape) for tensor in (start, tuned))
    for block in _row_blocks(shape):
        with np.errstate(all="ignore"):
            change = np.abs(_values(after[block], tuned.dtype) - _values(before[block], tuned.dtype))
        change[~np.isfinite(change)] = 0
        rows[block] = change.sum(axis=1, dtype=np.float64) / max(1, shape[1])
        columns += change.sum(axis=0, dtype=np.float64)
    columns /= max(1, shape[0])
    mean = columns.mean() if columns.size else 0.0
    return _steps(rows), _steps(columns / mean if mean else np.ones_like(columns))


def _values(bits: npt.NDArray[Any], dtype: str) -> Floats:
    flat = np.ascontiguousarray(bits).reshape(-1)
    return Tensor(dtype, bits.shape, flat.view(np.uint8)).float32()


def _steps(sizes: npt.NDArray[np.float64]) -> Integers:
    return np.rint(_PER_OCTAVE * np.log2(np.maximum(sizes, 2.0**-60))).astype(np.int64)


def _contexts(before: npt.NDArray[Any], rows: Integers, columns: Integers, dtype: str) -> npt.NDArray[np.uint8]:
    """Context of each element of a block of rows: log2 of the expected distance in units in the last place."""
    form = _FORMATS[dtype]
    expected = (before >> form.mantissa).astype(np.int32)
    expected &= (1 << (form.width - 1 - form.mantissa)) - 1
    np.maximum(expected, 1, out=expected)
    expected *= -_PER_OCTAVE
    expected += (rows[:, None] + (_PER_OCTAVE * (form.bias + form.mantissa) - _LOWEST)).astype(np.int32)
    expected += columns[None, :].astype(np.int32)
    np.clip(expected, 0, _HIGHEST[dtype] - _LOWEST, out=expected)
    return expected.astype(np.uint8).reshape(-1)


def _segments(contexts: npt.NDArray[np.uint8], dtype: str) -> Iterator[tuple[str, int, int]]:
    """Context name and place in context order of each context that occurs."""
    ends = np.cumsum(np.bincount(contexts, minlength=256)).tolist()
    for context, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
        if first < last:
            yield f"exact.{dtype}.{context + _LOWEST}", first, last


def _grouped(contexts: npt.NDArray[np.uint8], distances: Integers, dtype: str) -> list[Group]:
    in_order = distances[np.argsort(contexts, kind="stable")]
    return [(name, in_order[first:last]) for name, first, last in _segments(contexts, dtype)]


def _ungrouped(reader: ChunkReader, contexts: npt.NDArray[np.uint8], dtype: str) -> Integers:
    in_order = [reader.take(name, last - first) for name, first, last in _segments(contexts, dtype)]
    distances: Integers = np.empty(contexts.size, _place_type(_FORMATS[dtype].width // 8))
    distances[np.argsort(contexts, kind="stable")] = np.concatenate(in_order) if in_order else 0
    return distances
