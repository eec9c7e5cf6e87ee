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
    largest = max(int(values.max(initial=0)), -int(values.min(initial=0)))
    tokens = _with_sign(values.astype(np.int32))
    if largest < _DIRECT:
        return tokens, np.empty(0, np.int64), np.empty(0, np.uint8)
    if largest >> MAX_BITS:
        raise OverflowError(f"cannot code {largest}")
    large = np.flatnonzero((values >= _DIRECT) | (values <= -_DIRECT))
    chosen = values[large].astype(np.int64)
    heads = np.abs(chosen)
    # frexp gives 0.5 <= fraction < 1, so its exponent is the bit length; exact for integers below 2**53.
    lengths = np.frexp(heads.astype(np.float64))[1].astype(np.int64)
    widths = lengths - 1 - _KEPT
    steps = _DIRECT + ((lengths - _DIRECT_BITS) << _KEPT) + ((heads >> widths) & (2**_KEPT - 1))
    tokens[large] = 2 * steps - (chosen < 0)
    return tokens, heads & ((np.int64(1) << widths) - 1), widths.astype(np.uint8)


def raw_widths(tokens: Tokens) -> npt.NDArray[np.uint8]:
    """How many raw bits belong to each token that has any, in their order."""
    return _WIDTHS[tokens[tokens >= _FIRST_LARGE]]


def from_tokens(tokens: Tokens, raw: npt.NDArray[np.int64]) -> Integers:
    """Inverse of `to_tokens`; `raw` holds the raw bits of the tokens that have any. int32 where that is enough."""
    if not raw.size:
        return _LEAST[: _FIRST_LARGE + 1].astype(np.int32)[tokens]
    large = np.flatnonzero(tokens >= _FIRST_LARGE)
    wide = int(_WIDTHS[tokens[large]].max()) + 1 + _KEPT > 31
    least: Integers = _LEAST if wide else _LEAST.astype(np.int32)
    values = least[tokens]
    values[large] += np.where(tokens[large] & 1, -raw, raw).astype(values.dtype)
    return values


def _with_sign(values: Tokens) -> Tokens:
    """0, -1, 1, -2, 2 … become 0, 1, 2, 3, 4 …."""
    return (values << 1) ^ (values >> 31)


def _token_tables() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """For each token the value of least magnitude that it stands for, and its number of raw bits."""
    tokens = np.arange(ALPHABET)
    steps = (tokens + 1) >> 1
    buckets = np.maximum(steps - _DIRECT, 0)
    large = steps >= _DIRECT
    widths = np.where(large, (buckets >> _KEPT) + _DIRECT_BITS - 1 - _KEPT, 0)
    least = np.where(large, ((buckets & (2**_KEPT - 1)) + 2**_KEPT) << widths, steps)
    return np.where(tokens & 1, -least, least), widths.astype(np.uint8)


_FIRST_LARGE: Final = 2 * _DIRECT - 1
_LEAST, _WIDTHS = _token_tables()
