"""Tokens as text while they come, and the ends that a request asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

_INCOMPLETE: Final = "\ufffd"
"""What a tokenizer writes where the bytes of a character are not all there yet."""

_PATIENCE: Final = 8
"""Tokens after which those are written that no incomplete character can have begun with."""
_UNFINISHED: Final = 3
"""Most tokens of an incomplete character: it has four bytes when it is complete, and each token has one at least."""


class Text:
    """The text of one answer.

    Args:
        tokenizer: turns tokens into text; used from one thread at a time.
        stops: texts that end the answer and are no part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._tokens: list[int] = []
        # Tokens before `_start` do not matter for what is next; those before `_done` are written.
        self._start = self._done = 0
        self._held = ""

    def push(self, token: int) -> Piece:
        """Add a token; returns the text that is certain now."""
        self._tokens.append(token)
        written, whole = self._decode(self._start, self._done), self._decode(self._start, None)
        certain = len(self._tokens)
        if len(whole) <= len(written) or whole.endswith(_INCOMPLETE):
            if certain - self._done < _PATIENCE:
                return Piece("", stopped=False)
            certain -= _UNFINISHED
            whole = self._decode(self._start, certain)
        self._start, self._done = self._done, certain
        return self._scan(whole[len(written) :])

    def finish(self) -> str:
        """The rest of the text, once no token comes any more."""
        written, whole = self._decode(self._start, self._done), self._decode(self._start, None)
        self._start = self._done = len(self._tokens)
        piece = self._scan(whole[len(written) :])
        rest = piece.text if piece.stopped else piece.text + self._held
        self._held = ""
        return rest

    def _decode(self, start: int, stop: int | None) -> str:
        text: str = self._tokenizer.decode(self._tokens[start:stop], skip_special_tokens=True)
        return text

    def _scan(self, new: str) -> Piece:
        text = self._held + new
        found = [place for place in map(text.find, self._stops) if place >= 0]
        if found:
            self._held = ""
            return Piece(text[: min(found)], stopped=True)
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return Piece(text[: len(text) - kept], stopped=False)


class Piece(NamedTuple):
    """What is new of a text.

    Attributes:
        text: without the stop.
        stopped: a stop was found; nothing comes after it.
    """

    text: str
    stopped: bool


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop.

    >>> _overlap("one EN", "END"), _overlap("one", "END")
    (2, 0)
    """
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
