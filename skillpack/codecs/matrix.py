"""Tensors of any number of dimensions seen as matrices."""

from __future__ import annotations

import math


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The most nearly square (rows, columns) that `shape` folds to without moving an element.

    >>> matrix_shape((64, 64, 3, 3)), matrix_shape((4, 100, 50)), matrix_shape((7,))
    ((64, 576), (400, 50), (1, 7))
    """
    splits = range(1, len(shape)) if len(shape) > 1 else range(1)
    return max(((math.prod(shape[:at]), math.prod(shape[at:])) for at in splits), key=min)
