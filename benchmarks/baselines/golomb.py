"""Golomb's code of non-negative integers (1966), the best code of whole bits for the gaps between random positions.

A number is cut into quotient and remainder by a modulus. The quotient is written in unary, the remainder in the shorter
or the longer of two widths. Here each kind of bit lies in an array of its own, so that all numbers are coded at once;
the bits are those of the usual order, and as many.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Code(NamedTuple):
    """The bits of coded numbers, int64 arrays.

    Attributes:
        unary: for each number, as many 0 as its quotient and a 1.
        short: for each number, what the shorter width holds of its remainder.
        long: one more bit for each number whose remainder takes the longer width.
        width: bits of each entry of `short`.
    """

    unary: Integers
    short: Integers
    long: Integers
    width: int


def modulus(count: int, size: int) -> int:
    """The best modulus for the gaps between `count` random positions out of `size` (Gallager and van Voorhis, 1975).

    >>> modulus(500, 1000), modulus(100, 1000), modulus(1, 1000)
    (1, 7, 693)
    """
    density = count / size
    if density >= 1:
        return 1
    return max(1, math.ceil(-math.log(2 - density) / math.log1p(-density)))


def width(modulus: int) -> int:
    """Bits of the shorter width.

    >>> [width(modulus) for modulus in (1, 2, 3, 4, 5)]
    [0, 0, 1, 1, 2]
    """
    return max(0, (modulus - 1).bit_length() - 1)


def encode(numbers: Integers, modulus: int) -> Code:
    """Code non-negative int64 numbers of shape (count,)."""
    quotients, remainders = np.divmod(numbers, modulus)
    ends = np.cumsum(quotients + 1)
    unary = np.zeros(ends[-1] if ends.size else 0, np.int64)
    unary[ends - 1] = 1
    if modulus == 1:
        return Code(unary, np.zeros_like(numbers), np.zeros(0, np.int64), 0)
    spare = _spare(modulus)
    is_long = remainders >= spare
    shifted = remainders + spare
    return Code(unary, np.where(is_long, shifted >> 1, remainders), (shifted & 1)[is_long], width(modulus))


def long_codes(short: Integers, modulus: int) -> int:
    """How many of the remainders take the longer width."""
    return 0 if modulus == 1 else int((short >= _spare(modulus)).sum())


def decode(code: Code, modulus: int) -> Integers:
    """Inverse of `encode`."""
    quotients = np.diff(np.flatnonzero(code.unary), prepend=-1) - 1
    if modulus == 1:
        return quotients
    spare = _spare(modulus)
    is_long = code.short >= spare
    remainders = code.short.copy()
    remainders[is_long] = (code.short[is_long] << 1 | code.long) - spare
    return quotients * modulus + remainders


def _spare(modulus: int) -> int:
    """How many remainders have the shorter width."""
    return int(2 ** (modulus - 1).bit_length() - modulus)
