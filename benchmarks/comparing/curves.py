"""Curves of bytes over divergence, and how two methods compare on them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SAMPLES = 1000
"""Divergences at which curves are compared for a mean."""
Point = tuple[int, float]
"""Bytes, and mean KL in nats per prediction."""


def frontier(points: Iterable[Point]) -> list[Point]:
    """The points that no other one beats in both bytes and divergence, by ascending bytes.

    >>> frontier([(10, 0.5), (20, 0.1), (15, 0.6), (30, 0.1), (40, 0.01)])
    [(10, 0.5), (20, 0.1), (40, 0.01)]
    """
    best: list[Point] = []
    for point in sorted(points):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def bytes_at(divergence: float, points: Sequence[Point]) -> float | None:
    """Bytes from which a curve has at most a divergence, linear between its points in the logarithms of both.

    Returns:
        The bytes of the smallest point where even that one is closer; None where none of them is as close.

    >>> round(bytes_at(0.01, [(10, 0.1), (1000, 0.001)]))
    100
    >>> bytes_at(0.2, [(10, 0.1), (1000, 0.001)])
    10
    >>> bytes_at(0.0002, [(10, 0.1), (1000, 0.001)])
    """
    curve = frontier(points)
    if curve and divergence >= curve[0][1]:
        return curve[0][0]
    for (low, above), (high, below) in pairwise(curve):
        if below <= divergence <= above:
            share = math.log(above / divergence) / math.log(above / below)
            return low * (high / low) ** share
    return None


def mean_saving(points: Sequence[Point], others: Sequence[Point], low: float, high: float) -> float | None:
    """Share of bytes that a curve saves against another at the same divergence, on average over the range of both.

    The mean over the logarithm of the divergence of that of the ratio of bytes, as Bjontegaard compares video coders
    (ITU-T VCEG-M33, 2001); between points both curves are straight in these logarithms, as in `bytes_at`.

    Args:
        points: of the one curve.
        others: of the one it is compared with.
        low: the least divergence that counts.
        high: the largest one.

    Returns:
        None where the curves have no range in common.

    >>> round(mean_saving([(5, 0.1), (500, 0.001)], [(10, 0.1), (1000, 0.001)], 1e-4, 1.0), 3)
    0.5
    """
    one, other = frontier(points), frontier(others)
    if not one or not other:
        return None
    low, high = max(low, one[-1][1], other[-1][1]), min(high, one[0][1], other[0][1])
    if low >= high:
        return None
    sizes = [
        (bytes_at(divergence, one), bytes_at(divergence, other)) for divergence in np.geomspace(low, high, _SAMPLES)
    ]
    # Either end may be beyond a curve by an error of rounding.
    ratios = [math.log(ours / theirs) for ours, theirs in sizes if ours and theirs]
    return 1 - math.exp(sum(ratios) / len(ratios))
