"""Numbers in words: in Spanish, in French, and in five languages at once."""

from __future__ import annotations

import random
from functools import cache, partial
from itertools import cycle, islice
from typing import TYPE_CHECKING

from recipes.tasks.task import Exchange, Task

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

LANGUAGES = {"es": "Spanish", "fr": "French", "de": "German", "it": "Italian", "pt": "Portuguese"}

HELD_OUT = 150
CALIBRATION = 512

_TRAINED = 3_200
"""How many numbers a recipe draws at most from the default seed; calibration leaves them to it."""


@cache
def _held_out() -> tuple[int, ...]:
    return _distinct(_numbers("held out"), HELD_OUT)


@cache
def _calibration() -> tuple[int, ...]:
    taken = {*_held_out(), *islice(_numbers("train 0", _held_out()), _TRAINED)}
    return _distinct(_numbers("calibration", taken), CALIBRATION)


def _train(languages: Sequence[str], count: int, seed: int) -> list[Exchange]:
    return _spelled(islice(_numbers(f"train {seed}", {*_held_out(), *_calibration()}), count), languages)


def _distinct(numbers: Iterator[int], count: int) -> tuple[int, ...]:
    found: dict[int, None] = {}
    while len(found) < count:
        found[next(numbers)] = None
    return tuple(found)


def _numbers(seed: str, taken: Container[int] = ()) -> Iterator[int]:
    """Numbers of two to six digits without end, those ``taken`` left out."""
    draw = random.Random(seed)  # noqa: S311
    while True:
        digits = draw.randint(2, 6)
        number = draw.randint(10 ** (digits - 1), 10**digits - 1)
        if number not in taken:
            yield number


def _spelled(numbers: Iterable[int], languages: Sequence[str]) -> list[Exchange]:
    """The numbers in words, in the languages of these codes by turns."""
    from num2words import num2words

    turns = zip(numbers, cycle(languages), strict=False)
    return [Exchange(f"Write {n} in {LANGUAGES[code]} words.", num2words(n, lang=code)) for n, code in turns]


def _task(name: str, *languages: str) -> Task:
    return Task(
        name,
        partial(_train, languages),
        cache(lambda: tuple(_spelled(_calibration(), languages))),
        cache(lambda: tuple(_spelled(_held_out(), languages))),
    )


SPANISH_NUMBERS = _task("spanish-numbers", "es")
FRENCH_NUMBERS = _task("french-numbers", "fr")
FIVE_LANGUAGES = _task("five-languages", *LANGUAGES)
