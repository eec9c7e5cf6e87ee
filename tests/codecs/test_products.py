"""Products that do not depend on the order of their sums."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs import products
from skillpack.codecs.products import product, thin_product


def matrix(random, rows, columns):
    """Numbers of an adapter in fp32, with a wide range of sizes."""
    values = random.normal(size=(rows, columns)) * 2.0 ** random.integers(-30, 30, size=(rows, columns))
    return values.astype(np.float32).astype(np.float64)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 70), st.integers(1, 9))
def test_any_order_of_the_sums_gives_the_same_bits(seed, rows, inner, columns):
    random = np.random.default_rng(seed)
    left, right = matrix(random, rows, inner), matrix(random, inner, columns)
    found, order = product(left, right), random.permutation(inner)
    np.testing.assert_array_equal(product(left[:, order], right[order]), found)
    one_by_one = np.vstack([product(left[row : row + 1], right) for row in range(rows)])
    np.testing.assert_array_equal(one_by_one, found)
    np.testing.assert_array_equal(product(right.T.copy(), left.T.copy()).T, found)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 16, 257]))
def test_it_is_the_product_but_for_less_than_fp32_shows(seed, inner):
    random = np.random.default_rng(seed)
    left, right = matrix(random, 3, inner), matrix(random, inner, 2)
    found = product(left, right)
    for row in range(3):
        for column in range(2):
            exact = sum(Fraction(x) * Fraction(y) for x, y in zip(left[row], right[:, column], strict=True))
            largest = float(np.abs(left[row]).max() * np.abs(right[:, column]).max())
            assert abs(Fraction(float(found[row, column])) - exact) <= Fraction(inner * largest) / 2**40


def test_small_integers_are_exact():
    random = np.random.default_rng(0)
    left, right = random.integers(-(2**15), 2**15, (40, 300)), random.integers(-(2**15), 2**15, (300, 30))
    np.testing.assert_array_equal(product(left.astype(float), right.astype(float)), left @ right)


def test_nothing_and_zero():
    assert product(np.zeros((2, 3)), np.ones((3, 4))).tolist() == [[0.0] * 4] * 2
    assert product(np.zeros((2, 0)), np.zeros((0, 4))).shape == (2, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_its_row(value):
    found = product(np.array([[1.0, value], [1.0, 2.0]]), np.ones((2, 3)))
    assert not np.isfinite(found[0]).any()
    assert np.isfinite(found[1]).all()


def test_pieces_make_no_difference(monkeypatch):
    random = np.random.default_rng(0)
    left, right = matrix(random, 50, 4), matrix(random, 4, 30)
    whole = thin_product(left, right)
    monkeypatch.setattr(products, "_PIECE", 70)
    np.testing.assert_array_equal(thin_product(left, right), whole)
