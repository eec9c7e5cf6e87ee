"""Text that comes token by token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skillpack.serving.texts import Text
from tests.live.models import tokenizer

TOKENIZER = tokenizer()
LETTERS = st.text(st.sampled_from("ab é€😀\n"), max_size=30)


def tokens(text):
    return TOKENIZER(text, add_special_tokens=False).input_ids


def pieces(ids, stops=()):
    """What is certain after each token, and what is left at the end; nothing comes after a stop."""
    text, found = Text(TOKENIZER, stops), []
    for token in ids:
        piece = text.push(token)
        found.append(piece.text)
        if piece.stopped:
            return found, True
    return [*found, text.finish()], False


@given(LETTERS)
def test_the_pieces_are_the_text(text):
    found, stopped = pieces(tokens(text))
    assert "".join(found) == text
    assert not stopped
    assert not any("\ufffd" in piece for piece in found)


@given(LETTERS, st.lists(st.text(st.sampled_from("ab é"), min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_text_ends_before_its_first_stop(text, stops):
    found, stopped = pieces(tokens(text), stops)
    places = [place for place in map(text.find, stops) if place >= 0]
    whole = "".join(found)
    assert stopped == bool(places)
    if places:
        # The stop that is complete first ends the text, which need not be the one that begins first.
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        seen = text[: min(ends)]
        assert whole == seen[: min(place for place in map(seen.find, stops) if place >= 0)]
    else:
        assert whole == text


def test_what_may_be_a_stop_is_held_back():
    assert pieces(tokens("one EN two"), ["END"])[0][:7] == ["o", "n", "e", " ", "", "", "EN "]


@given(st.lists(st.integers(0, 255), max_size=60))
def test_any_bytes_become_what_they_are_together(ids):
    """Characters that begin amid bytes that are none come out as well."""
    found, _ = pieces(ids)
    assert "".join(found) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_bytes_that_are_no_character_are_replaced_once_it_is_certain():
    half = tokens("€")[:1]
    found, _ = pieces(half * 9)
    assert "".join(found) == "\ufffd" * 9
    assert found[7] == "\ufffd" * 5
    assert "".join(pieces(half)[0]) == "\ufffd"


def test_special_tokens_are_no_text():
    assert "".join(pieces([256, *tokens("a"), 256, 257, *tokens("b")])[0]) == "ab"
