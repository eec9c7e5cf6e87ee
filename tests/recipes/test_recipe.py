"""Recipes keep the names of their cached fine-tunes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recipes.finetune import DRUG_REVIEWS, FRENCH_NUMBERS_SHORT, SPANISH_NUMBERS, SPANISH_NUMBERS_SHORT, Recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLPACK_RECIPES", str(tmp_path))


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (SPANISH_NUMBERS, "spanish-numbers-200-a52a349fa2"),
        (SPANISH_NUMBERS_SHORT, "spanish-numbers-30-87923823b2"),
        (FRENCH_NUMBERS_SHORT, "french-numbers-15-0c267bc628"),
        (DRUG_REVIEWS, "drug-reviews-100-3b3ad12772"),
    ],
)
def test_published_fine_tunes_keep_their_folders(recipe, name, tmp_path):
    assert recipe.folder == tmp_path / "tuned" / name


@pytest.mark.parametrize(
    "change", [{"steps": 31}, {"batch": 9}, {"learning_rate": 2e-4}, {"seed": 1}, {"schedule": "constant"}]
)
def test_whatever_changes_the_weights_changes_the_folder(change):
    assert replace(SPANISH_NUMBERS_SHORT, **change).folder != SPANISH_NUMBERS_SHORT.folder


def test_the_rate_rises_and_then_falls_or_stays():
    linear, constant = (Recipe("spanish-numbers", 110, 1, schedule=schedule) for schedule in ("linear", "constant"))
    assert [linear.rate(step) for step in (0, 4, 9, 60, 109)] == [0.1, 0.5, 1.0, 0.5, 0.01]
    assert [constant.rate(step) for step in (0, 4, 9, 60, 109)] == [0.1, 0.5, 1.0, 1.0, 1.0]
