"""What methods share: going through tensors in pieces, sums, signs, and whole numbers in names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from skillpack.packing.spool import spooled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.tensors import Floats

IN_MEMORY: Final = 1 << 22
"""Elements up to which a result lives in memory; larger ones are temporary files."""
_LAYER: Final = re.compile(r"(?:^|\.)(\d+)\.")


def mapped(deltas: Deltas, function: Callable[[list[Floats]], Floats]) -> Floats:
    """Apply a function of one-dimensional pieces to a whole tensor.

    Args:
        deltas: what the skills add.
        function: takes a piece of every delta, which it may not change, and gives that of the result.
    """
    result = empty(deltas.shape)
    flat = result.reshape(-1)
    for span, pieces in deltas.pieces():
        flat[span] = function(pieces)
    return result


def empty(shape: tuple[int, ...]) -> Floats:
    """An array of zeros to be written, in a temporary file if it is large."""
    if np.prod(shape, dtype=np.int64) > IN_MEMORY:
        return spooled(shape, np.float32)
    return np.zeros(shape, np.float32)


def weighted_sum(pieces: Sequence[Floats], weights: Weights) -> Floats:
    """Sum of weight times piece in fp32, in the given order, each product rounded once and each sum once.

    That is how skills that are installed together are added, so that nothing depends on the machine.
    """
    total = np.zeros_like(pieces[0])
    for piece, weight in zip(pieces, weights, strict=True):
        if weight:
            total += np.multiply(piece, np.float32(weight), dtype=np.float32)
    return total


def scaled(pieces: Sequence[Floats], weights: Weights) -> list[Floats]:
    """Each piece times its weight, fp32."""
    return [np.multiply(piece, np.float32(weight)) for piece, weight in zip(pieces, weights, strict=True)]


def elected_sum(pieces: Sequence[Floats], weights: Weights, *, mean: bool) -> Floats:
    """TIES's election and disjoint merge (arXiv:2306.01708, algorithm 1).

    The sign of an entry is that of the weighted sum. What has another sign is left out; where the sum is zero nothing
    is elected. What is left is added, and divided by the sum of its weights if the mean is asked for.

    Args:
        pieces: trimmed deltas.
        weights: their factors.
        mean: whether to divide.
    """
    parts = scaled(pieces, weights)
    sign = np.sign(np.sum(parts, axis=0, dtype=np.float64)).astype(np.float32)
    total, divisor = np.zeros(sign.shape, np.float64), np.zeros(sign.shape, np.float64)
    for part, weight in zip(parts, weights, strict=True):
        agrees = part * sign > 0
        total += np.where(agrees, part, 0)
        divisor += np.where(agrees, weight, 0)
    if mean:
        np.divide(total, divisor, out=total, where=divisor != 0)
    return total.astype(np.float32)


def layer_of(name: str) -> int | None:
    """The first whole number in a tensor's name, which counts layers.

    >>> layer_of("model.layers.12.mlp.up_proj.weight"), layer_of("model.norm.weight")
    (12, None)
    """
    found = _LAYER.search(name)
    return None if found is None else int(found.group(1))
