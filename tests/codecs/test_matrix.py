"""Shapes fold to the most nearly square matrix without an element moving."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack.codecs.matrix import matrix_shape


@pytest.mark.parametrize(
    ("shape", "folded"),
    [
        ((), (1, 1)),
        ((0,), (1, 0)),
        ((7,), (1, 7)),
        ((5, 3), (5, 3)),
        ((1, 9), (1, 9)),
        ((0, 4), (0, 4)),
        ((64, 3, 3, 3), (64, 27)),
        ((8, 64, 3, 3), (512, 9)),
        ((4, 100, 50), (400, 50)),
        ((2, 1, 1), (2, 1)),
    ],
)
def test_known_shapes(shape, folded):
    assert matrix_shape(shape) == folded


@given(st.lists(st.integers(1, 9), max_size=5).map(tuple))
def test_no_other_fold_has_a_longer_short_side(shape):
    rows, columns = matrix_shape(shape)
    assert rows * columns == math.prod(shape)
    for at in range(1, len(shape)):
        assert min(math.prod(shape[:at]), math.prod(shape[at:])) <= min(rows, columns)
    values = np.arange(rows * columns)
    np.testing.assert_array_equal(values.reshape(shape).reshape(rows, columns), values.reshape(rows, columns))
