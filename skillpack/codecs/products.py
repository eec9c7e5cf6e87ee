"""Products of thin matrices that come out the same, bit for bit, on every machine.

A matrix multiplication in floating point depends on the order of its sums, which each library, number of threads and
processor chooses for itself. Here each row of the left matrix and each column of the right one is cut into two slices
of integers, so short that float64 adds their products exactly in any order (the error-free transformation of Ozaki et
al., https://doi.org/10.1007/s11075-011-9478-1). What is left are single additions, which IEEE 754 fixes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.tensors import Doubles, Floats

_EXACT_BITS: Final = 53
_PIECE: Final = 1 << 20
"""Elements of a product that are worked on at a time."""


def product(left: Doubles, right: Doubles) -> Doubles:
    """`left` @ `right`; what is not finite makes its row or column NaN.

    Entries far below the largest of their row (or column, in `right`) count with at least 36 bits below it, for inner
    sizes up to 65,536.

    Args:
        left: fp64 [rows, inner].
        right: fp64 [inner, columns].

    >>> product(np.array([[1.0, 2.0]]), np.array([[0.5], [0.25]]))
    array([[1.]])
    """
    bits = (_EXACT_BITS - max(1, left.shape[1]).bit_length()) // 2
    (first, second), rows = _sliced(left, 1, bits)
    (third, fourth), columns = _sliced(right, 0, bits)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = first @ third
        total += np.ldexp(first @ fourth + second @ third, -bits)
        total += np.ldexp(second @ fourth, -2 * bits)
        found: Doubles = np.ldexp(total, rows + columns - 2 * bits)
    return found


def thin_product(left: Doubles, right: Doubles) -> Floats:
    """`product` cast to fp32 once, in pieces; what is too large becomes infinite."""
    values = np.empty((left.shape[0], right.shape[1]), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for piece in pieces(values.shape):
            values[piece] = product(left[piece], right)
    return values


def pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows with about a million numbers each, so that fp64 work space stays small."""
    step = max(1, _PIECE // max(1, shape[1]))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _sliced(matrix: Doubles, axis: int, bits: int) -> tuple[tuple[Doubles, Doubles], npt.NDArray[np.int32]]:
    """Two integer slices of each row or column, and the power of two that it was divided by."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        peaks = np.abs(matrix).max(axis=axis, keepdims=True, initial=0.0)
        exponents = np.frexp(peaks)[1]
        scaled = np.ldexp(matrix, bits - exponents)
        first = np.rint(scaled)
        second = np.rint(np.ldexp(scaled - first, bits))
    return (first, second), exponents
