"""Beginnings of prompts that are kept."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from skillpack.serving.prefixes import Prefixes

MATH, OTHER = (("sha256:aa", 1.0),), (("sha256:bb", 1.0),)
TOKENS = st.lists(st.integers(0, 2), max_size=12)
CHOICES = st.sampled_from([(), MATH, OTHER, (("sha256:aa", 0.5),), (*MATH, *OTHER)])


def block(value=0.0):
    return [(torch.full((1, 2, 4), value), torch.full((1, 2, 4), value))]


SIZE = 2 * 8 * 4


@given(CHOICES, TOKENS, CHOICES, TOKENS)
def test_a_key_stands_for_the_skills_and_for_all_tokens_up_to_its_end(choice, tokens, other_choice, other_tokens):
    kept = Prefixes(1 << 20, 2)
    keys, other = kept.keys(choice, tokens), kept.keys(other_choice, other_tokens)
    assert len(keys) == len(tokens) // 2
    for number, (key, other_key) in enumerate(zip(keys, other, strict=False), start=1):
        same = choice == other_choice and tokens[: 2 * number] == other_tokens[: 2 * number]
        assert (key == other_key) is same


def test_the_longest_known_beginning_is_found():
    kept = Prefixes(1 << 20, 2)
    keys = kept.keys((), range(8))
    for number in (0, 1, 3):
        kept.add(keys[number], block(number))
    assert [found[0][0][0, 0, 0].item() for found in kept.find(keys)] == [0.0, 1.0]
    assert kept.wants(keys[2])
    assert not kept.wants(keys[3])
    kept.forget()
    assert (kept.find(keys), kept.nbytes) == ([], 0)


def test_what_was_used_last_stays():
    kept = Prefixes(2 * SIZE, 2)
    first, second, third = (kept.keys((), [number, 0])[0] for number in range(3))
    kept.add(first, block())
    kept.add(second, block())
    kept.find([first])
    kept.add(third, block())
    assert [kept.wants(key) for key in (first, second, third)] == [False, True, False]
    assert kept.nbytes == 2 * SIZE


def test_with_no_room_nothing_is_kept():
    assert Prefixes(0, 2).keys((), range(8)) == []
