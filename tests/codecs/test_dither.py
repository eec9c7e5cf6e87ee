"""Subtractive dither: an error that is the same noise whatever is rounded, and cheap given the offset."""

import hashlib

import numpy as np
import pytest

from skillpack.codecs.dither import UNIT, VARIANCE, Dither, dither_key, dithered, gaussian_bits, groups, read_groups
from skillpack.codecs.entropy import ChunkReader, count_all, encode_chunk
from skillpack.codecs.noise import Seed

COUNT = 1 << 18


def read(values, seed="a"):
    """Values as they come back, in steps."""
    offsets = Dither(dither_key(Seed((seed,)))).take(values.size)
    return (UNIT * dithered(values, offsets, Seed((seed,)).noise()) + offsets) / UNIT


def normal(count, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=count)).astype(np.float32)


@pytest.mark.parametrize("value", [0.0, 0.001, 0.02, 0.3, -0.5, 1 / 16, 7.77, -100.4])
def test_each_value_is_met_on_average(value):
    back = read(np.full(COUNT, value, np.float32))
    assert abs(back.mean() - value) < 5 * np.sqrt(VARIANCE / COUNT)
    assert np.abs(back - value).max() < 0.5 + 1 / 16


@pytest.mark.parametrize("spread", [0.01, 0.3, 1.0, 20.0])
def test_the_error_is_uniform_noise_whatever_is_rounded(spread):
    values = normal(COUNT, spread)
    errors = read(values) - values
    assert errors.var() == pytest.approx(VARIANCE, rel=0.02)
    assert abs(np.corrcoef(errors, values)[0, 1]) < 5 / np.sqrt(COUNT)
    assert abs(np.corrcoef(errors, np.abs(values))[0, 1]) < 5 / np.sqrt(COUNT)


def test_all_offsets_are_drawn_alike():
    offsets = Dither(5).take(COUNT)
    values, counts = np.unique(offsets, return_counts=True)
    assert values.tolist() == list(range(-15, 16, 2))
    assert counts.min() > 0.95 * COUNT / 16


def test_offsets_are_what_they_always_were():
    """If this fails, skills packed before cannot be read."""
    dither = Dither(12345)
    drawn = [dither.take(count).tobytes() for count in (3, 8, 1000)]
    assert hashlib.sha256(b"".join(drawn)).hexdigest() == FROZEN


FROZEN = "ab3aab1d24cf2a53d8617f247e4e1df2dc578acd0d96eb739d67cc2383aea654"


@pytest.mark.parametrize("key", [-1, 1 << 32, True, 1.0, None, "1", [1]])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match="not the key of a dither"):
        Dither(key)


def test_keys_follow_from_seeds():
    keys = [dither_key(Seed(key)) for key in (("a",), ("b",), ("a", "b"), ("a",))]
    assert keys[0] == keys[3]
    assert len(set(keys)) == 3
    assert not (Dither(keys[0]).take(100) == Dither(keys[1]).take(100)).all()


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_there_and_back(count, fine):
    values = normal(count, 3.0)
    offsets = Dither(1).take(count)
    symbols = dithered(values, offsets, Seed(("a",)).noise())
    chunk = groups("c", symbols, offsets, fine=fine)
    tables = count_all([chunk]).tables()
    reader = ChunkReader(encode_chunk(chunk, tables), tables)
    units = read_groups(reader, "c", Dither(1).take(count), fine=fine)
    reader.finish()
    assert units.tolist() == (UNIT * symbols.astype(int) + offsets).tolist()


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 10.0])
def test_bits_are_close_to_the_predicted_and_fewer_than_without_the_offset(spread):
    values, offsets = normal(COUNT, spread), Dither(1).take(COUNT)
    symbols = dithered(values, offsets, Seed(("a",)).noise())
    fine, coarse = (count_all([groups("c", symbols, offsets, fine=fine)]).size() * 8 / COUNT for fine in (True, False))
    assert fine == pytest.approx(float(gaussian_bits(np.array(spread))), rel=0.08)
    assert fine < coarse * (0.8 if spread < 0.4 else 1.001)
