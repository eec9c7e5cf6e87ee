"""The least bits for Gaussian sources, against cases with a closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs.gaussian import Source, least_bits, product_source
from skillpack.codecs.lowrank import LowRank
from skillpack.codecs.sparse import Sparse
from skillpack.codecs.tucker import Tucker


def source(variances, counts):
    return Source(np.array(variances, float), np.array(counts, float))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("distortion", [1e-9, 0.01, 1.0, 30.0, 79.0])
def test_one_variance_is_half_a_logarithm_for_each(distortion):
    expected = 20 / 2 * math.log2(80 / distortion)
    assert least_bits(source([4], [20]), distortion) == pytest.approx(expected)


def test_water_covers_weak_coefficients():
    # Level 1: the weak ones keep all their variance as error, 10 x 0.25, the strong ones 1 each.
    assert least_bits(source([16, 0.25], [3, 10]), 3 + 2.5) == pytest.approx(3 * 2)
    # Level 1/16: all are above.
    assert least_bits(source([16, 0.25], [3, 10]), 13 / 16) == pytest.approx(3 * 4 + 10 * 1)


def test_the_ends():
    one = source([4, 1], [1, 2])
    assert least_bits(one, 6.0) == least_bits(one, 99.0) == 0
    assert least_bits(one, 0.0) == math.inf
    assert least_bits(source([], []), 0.0) == least_bits(source([0], [5]), 0.0) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(1, 1000)), min_size=1, max_size=6), st.floats(0.001, 0.99))
def test_an_even_spread_needs_most_and_less_error_more(groups, share):
    found = source(*zip(*groups, strict=True))
    bits = least_bits(found, share * found.energy)
    count = found.counts.sum()
    even = least_bits(source([found.energy / count], [count]), share * found.energy)
    assert -1e-6 <= bits <= even * (1 + 1e-9) + 1e-6
    assert least_bits(found, share * found.energy / 2) > bits
    assert least_bits(Source(found.variances * 1e6, found.counts), share * found.energy * 1e6) == pytest.approx(bits)


def test_a_product_holds_the_energy_and_counts_every_coefficient():
    found = product_source(24.0, [np.array([1.0, 2.0]), np.array([3.0, 3.0, 0.0])])
    assert found.energy == pytest.approx(24)
    assert sorted(zip(found.variances, found.counts, strict=True)) == [
        (pytest.approx(4), 2),
        (pytest.approx(8), 2),
    ]
    assert product_source(0.0, [np.zeros(3), np.zeros(2)]).energy == 0


def test_no_more_is_needed_than_for_entries_of_one_variance():
    delta = normal(300, 40)
    codec = LowRank()
    found = codec.source(codec.analyse(delta, 0.1))
    energy = float(np.square(delta, dtype=float).sum())
    assert found.energy == pytest.approx(energy, rel=1e-5)
    assert found.counts.sum() == 300 * 40
    bits = least_bits(found, 0.1 * energy)
    even = 300 * 40 / 2 * math.log2(10)
    # The singular values and the norms of rows of noise are not all the same.
    assert 0.9 * even < bits < even


def test_rows_and_directions_that_are_not_there_need_nothing():
    delta = np.zeros((500, 60), np.float32)
    delta[::50] = normal(10, 3, seed=1) @ normal(3, 60, seed=2)
    for matrix in (delta, delta.T):
        codec = LowRank()
        found = codec.source(codec.analyse(np.ascontiguousarray(matrix), 0.001))
        energy = found.energy
        assert least_bits(found, 0.25 * energy) < 10 * 3 / 2 * math.log2(4) * (1 + 1e-6)


def test_entries_that_are_zero_need_nothing():
    delta = np.zeros((100, 50), np.float32)
    delta[7, :10], delta[8, :5] = 2, 1
    found = Sparse().source(Sparse().analyse(delta, 1.0))
    assert (found.variances.tolist(), found.counts.tolist()) == ([4, 1], [10, 5])
    assert Sparse().source(Sparse().analyse(np.zeros((3, 4), np.float32), 1.0)).energy == 0


def test_directions_of_a_stack_cost_nothing():
    one = normal(20, 2, seed=1) @ normal(2, 16, seed=2)
    stack = np.stack([one] * 4)
    found = Tucker().source(Tucker().analyse(stack, 0.001))
    assert found.energy == pytest.approx(float(np.square(stack, dtype=float).sum()), rel=1e-5)
    # One expert, two directions of outputs, two of inputs.
    assert least_bits(found, 0.01 * found.energy) < 4 / 2 * math.log2(100)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
def test_any_scale(scale):
    codec, delta = LowRank(), normal(30, 20)
    one, other = (codec.source(codec.analyse(delta * np.float32(factor), factor)) for factor in (1, scale))
    assert least_bits(other, other.energy / 9) == pytest.approx(least_bits(one, one.energy / 9), rel=1e-2)
