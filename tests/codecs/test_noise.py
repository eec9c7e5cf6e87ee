"""Noise is reproducible, uniform, and different for every key."""

import numpy as np
import pytest

from skillpack.codecs.noise import Seed


def test_numbers_are_what_they_always_were():
    """If this fails, packing the same models gives another digest than before."""
    assert (Seed(("a", "b")).noise().uniform((5,)) * 2**17).tolist() == FROZEN


FROZEN = [63449.0, 54037.0, 81035.0, 2577.0, 28931.0]


def test_a_seed_begins_anew_and_a_stream_goes_on():
    seed = Seed(("base", "tuned", "name"))
    noise = seed.noise()
    first, second = noise.uniform((64,)), noise.uniform((64,))
    np.testing.assert_array_equal(seed.noise().uniform((64,)), first)
    assert (first != second).any()


@pytest.mark.parametrize("other", [("base", "tuned", "other"), ("base", "name", "tuned"), ("base", "tunedname")])
def test_other_keys_give_other_numbers(other):
    numbers = Seed(("base", "tuned", "name")).noise().uniform((1000,))
    others = Seed(other).noise().uniform((1000,))
    assert abs(np.corrcoef(numbers, others)[0, 1]) < 0.15


def test_numbers_are_uniform_and_never_0_or_1():
    numbers = Seed(("a",)).noise().uniform((300, 1000))
    assert numbers.dtype == np.float32
    assert numbers.shape == (300, 1000)
    assert 0 < numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    share = np.histogram(numbers, 50, (0, 1))[0] / numbers.size
    np.testing.assert_allclose(share, 1 / 50, rtol=0.06)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (5, 7)])
def test_any_shape(shape):
    assert Seed(("a",)).noise().uniform(shape).shape == shape


def test_rounding_goes_to_a_neighbour_and_is_right_on_average():
    values = np.linspace(-3, 3, 61, dtype=np.float32)
    rounded = Seed(("a",)).noise().round(np.broadcast_to(values, (20_000, 61)))
    assert rounded.dtype == np.int32
    assert (np.abs(rounded - values) < 1 + 1e-6).all()
    np.testing.assert_allclose(rounded.mean(axis=0), values, atol=0.02)


def test_whole_numbers_stay():
    values = np.array([-1e6, -3, 0, 7, 2**20], np.float32)
    for key in "abc":
        assert Seed((key,)).noise().round(values).tolist() == values.tolist()
