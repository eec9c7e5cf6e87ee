"""Curves of bytes over divergence, and how two methods compare on them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
