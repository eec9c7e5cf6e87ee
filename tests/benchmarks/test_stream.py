from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baselines import golomb
from benchmarks.baselines.stream import Reader, Writer, pack, packed_bytes, unpack

WIDTHS = st.integers(0, 20)


@given(WIDTHS.flatmap(lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=40))))
def test_codes_come_back_from_as_many_bytes_as_their_bits_need(case):
    bits, codes = case
    packed = pack(np.array(codes, np.int64), bits)
    assert unpack(packed, len(codes), bits).tolist() == codes
    assert len(packed) == packed_bytes(len(codes), bits)
    if bits <= 8:
        assert len(packed) == math.ceil(len(codes) * bits / 8)


def test_bits_are_packed_highest_first():
    assert pack(np.array([0b101, 0b010, 0b111]), 3) == bytes([0b10101011, 0b10000000])


@given(st.integers(1, 70), st.lists(st.integers(0, 3000), max_size=60))
def test_golomb_codes_come_back(modulus, numbers):
    numbers = np.array(numbers, np.int64)
    assert np.array_equal(golomb.decode(golomb.encode(numbers, modulus), modulus), numbers)


def golomb_bits(number, modulus):
    """Length of a code word by Golomb's definition."""
    width = math.ceil(math.log2(modulus)) if modulus > 1 else 0
    is_short = number % modulus < 2**width - modulus
    return number // modulus + 1 + width - is_short


@given(st.integers(1, 40), st.lists(st.integers(0, 500), max_size=30))
def test_golomb_codes_are_as_long_as_defined(modulus, numbers):
    code = golomb.encode(np.array(numbers, np.int64), modulus)
    bits = code.unary.size + code.short.size * code.width + code.long.size
    assert bits == sum(golomb_bits(number, modulus) for number in numbers)


@pytest.mark.parametrize("density", [0.003, 0.01, 0.05, 0.2, 0.5, 0.9])
def test_the_modulus_is_the_best_one(density):
    gaps = np.random.default_rng(1).geometric(density, 50_000) - 1

    def length(modulus):
        code = golomb.encode(gaps, modulus)
        return code.unary.size + code.short.size * code.width + code.long.size

    chosen = golomb.modulus(round(density * 1e6), 1_000_000)
    others = {max(1, chosen // 2), max(1, chosen - 2), chosen + 2, 2 * chosen}
    assert length(chosen) <= 1.001 * min(map(length, others))


@given(st.sets(st.integers(0, 400), max_size=401), st.integers(0, 50))
def test_positions_come_back(positions, beyond):
    positions = np.array(sorted(positions), np.int64)
    size = 401 + beyond
    writer = Writer()
    writer.positions(positions, size)
    assert np.array_equal(Reader(writer.data()).positions(size), positions)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.3, 0.5])
def test_positions_take_little_more_than_their_entropy(density):
    size = 400_000
    positions = np.flatnonzero(np.random.default_rng(2).random(size) < density)
    writer = Writer()
    writer.positions(positions, size)
    share = len(positions) / size
    entropy = -size * (share * math.log2(share) + (1 - share) * math.log2(1 - share))
    assert entropy < 8 * len(writer.data()) < 1.04 * entropy + 64


@given(st.lists(st.integers(0, 2**40), max_size=20))
def test_numbers_come_back(numbers):
    writer = Writer()
    for number in numbers:
        writer.number(number)
    reader = Reader(writer.data())
    assert [reader.number() for _ in numbers] == numbers


def test_arrays_come_back_bit_for_bit(random):
    halves = torch.randn(3, 5, generator=random).half()
    writer = Writer()
    writer.array(torch.tensor(2.5))
    writer.array(halves.T)
    assert len(writer.data()) == 4 + 30
    reader = Reader(writer.data())
    assert reader.array(torch.float32) == 2.5
    assert torch.equal(reader.array(torch.float16, 5, 3), halves.T)


def test_a_file_cut_short_is_refused():
    writer = Writer()
    writer.codes(torch.ones(9, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="cut short"):
        Reader(writer.data()[:-1]).codes(9, 4)
