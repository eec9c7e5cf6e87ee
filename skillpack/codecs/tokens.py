"""Integers as tokens of a small alphabet plus raw low bits.

Magnitudes below 16 are tokens of their own. Larger ones keep their leading one and the next three bits in the token and
the rest as raw bits, which are close to uniform; so an alphabet of some hundred tokens covers 40-bit integers at a loss
of under 0.02 bit. The sign is part of the token.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.signedinteger[Any]]
Tokens = npt.NDArray[np.int32]

_DIRECT: Final = 16
_DIRECT_BITS: Final = 5
_KEPT: Final = 3
MAX_BITS: Final = 40
"""Magnitudes stay below 2 to this power."""
ALPHABET: Final = 2 * (_DIRECT + (MAX_BITS - _DIRECT_BITS + 1) * 2**_KEPT)
"""Number of tokens."""


def to_tokens(values: Integers) -> tuple[Tokens, npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Split integers into tokens and raw bits.

    Args:
        values: 1-D signed integers, magnitudes below 2**40.

    Returns:
        Tokens (one per value); then, for the values that have raw bits only and in their order, those bits and how
        many there are.

    Raises:
        OverflowError: a magnitude is too large.

    >>> tokens, raw, widths = to_tokens(np.array([0, -3, 100]))
    >>> tokens.tolist(), raw.tolist(), widths.tolist()
    ([0, 5, 72], [4], [3])
    """
    # Unsigned, since the most negative number has no positive twin.
    magnitudes = np.abs(values).view(f"u{values.itemsize}")
    largest = int(magnitudes.max(initial=0))
    if largest < _DIRECT:
        return _with_sign(magnitudes, values), np.empty(0, np.int64), np.empty(0, np.uint8)
    if largest >> MAX_BITS:
        raise OverflowError(f"cannot code {largest}")
    large = magnitudes >= _DIRECT
    heads = magnitudes[large].astype(np.int64)
    # frexp gives 0.5 <= fraction < 1, so its exponent is the bit length; exact for integers below 2**53.
    lengths = np.frexp(heads.astype(np.float64))[1].astype(np.int64)
    widths = lengths - 1 - _KEPT
    steps = magnitudes.astype(np.int64)
    steps[large] = _DIRECT + ((lengths - _DIRECT_BITS) << _KEPT) + ((heads >> widths) & (2**_KEPT - 1))
    return _with_sign(steps, values), heads & ((np.int64(1) << widths) - 1), widths.astype(np.uint8)


def raw_widths(tokens: Tokens) -> npt.NDArray[np.uint8]:
    """How many raw bits belong to each token that has any, in their order."""
    steps = (tokens + 1) >> 1
    large = steps[steps >= _DIRECT]
    return (((large - _DIRECT) >> _KEPT) + _DIRECT_BITS - 1 - _KEPT).astype(np.uint8)


def from_tokens(tokens: Tokens, raw: npt.NDArray[np.int64]) -> Integers:
    """Inverse of `to_tokens`; `raw` holds the raw bits of the tokens that have any. int32 where that is enough."""
    steps: Integers = (tokens + 1) >> 1
    if raw.size:
        large = steps >= _DIRECT
        buckets = steps[large].astype(np.int64) - _DIRECT
        widths = (buckets >> _KEPT) + _DIRECT_BITS - 1 - _KEPT
        if int(widths.max()) + 1 + _KEPT > 31:
            steps = steps.astype(np.int64)
        steps[large] = (((buckets & (2**_KEPT - 1)) + 2**_KEPT) << widths) + raw
    np.negative(steps, out=steps, where=(tokens & 1).astype(bool))
    return steps


def _with_sign(steps: npt.NDArray[Any], values: Integers) -> Tokens:
    """0, -1, 1, -2, 2 … become 0, 1, 2, 3, 4 …."""
    tokens = steps.astype(np.int32)
    tokens <<= 1
    tokens -= values < 0
    return tokens
