"""Tokens: every integer below 2**40 comes back, and small ones are told apart by their token alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs.tokens import ALPHABET, MAX_BITS, from_tokens, raw_widths, to_tokens

LIMIT = 2**MAX_BITS


def edges():
    """Every power of two below the limit with its neighbours, and what lies just beyond each kept bit."""
    heads = [head << shift for shift in range(MAX_BITS - 3) for head in range(8, 16)]
    near = {value + step for value in heads for step in (-1, 0, 1)} | set(range(40)) | {LIMIT - 1}
    return np.array(sorted(value for value in near if value < LIMIT))


@settings(deadline=None)
@given(st.lists(st.integers(1 - LIMIT, LIMIT - 1) | st.integers(-300, 300)))
def test_integers_come_back(values):
    values = np.array(values, np.int64)
    tokens, raw, widths = to_tokens(values)
    assert tokens.shape == values.shape
    assert tokens.dtype == np.int32
    assert ((tokens >= 0) & (tokens < ALPHABET)).all()
    np.testing.assert_array_equal(raw_widths(tokens), widths)
    assert (raw >> widths == 0).all()
    np.testing.assert_array_equal(from_tokens(tokens, raw), values)


@pytest.mark.parametrize("sign", [1, -1])
def test_every_edge_comes_back_and_tokens_ascend_with_magnitude(sign):
    values = sign * edges()
    tokens, raw, _ = to_tokens(values)
    np.testing.assert_array_equal(from_tokens(tokens, raw), values)
    assert (np.diff(tokens) >= 0).all()


def test_all_of_the_alphabet_occurs():
    tokens, _, _ = to_tokens(np.concatenate([edges(), -edges()]))
    assert np.unique(tokens).tolist() == list(range(ALPHABET - 1))


def test_small_integers_have_tokens_of_their_own():
    tokens, raw, widths = to_tokens(np.arange(-15, 16))
    assert len(set(tokens.tolist())) == 31
    assert raw.size == widths.size == 0


def test_narrow_integers_give_the_same_tokens():
    values = np.array([0, 1, -1, 15, 16, -16, 1000, -(2**31), 2**31 - 1], np.int32)
    for narrow, wide in zip(to_tokens(values), to_tokens(values.astype(np.int64)), strict=True):
        np.testing.assert_array_equal(narrow, wide)


@pytest.mark.parametrize("value", [LIMIT, -LIMIT, 2**62, -(2**63)])
def test_too_large_an_integer_is_refused(value):
    with pytest.raises(OverflowError, match="cannot code"):
        to_tokens(np.array([3, value]))
