"""Recipes keep the names of their cached fine-tunes."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import transformers

from recipes.finetune import DRUG_REVIEWS, FRENCH_NUMBERS_SHORT, SPANISH_NUMBERS, SPANISH_NUMBERS_SHORT, Recipe
from recipes.sibling import HEALING, SIBLING, truncated


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


def test_fine_tunes_of_the_sibling_are_named_by_what_decides_the_sibling():
    small = replace(SPANISH_NUMBERS_SHORT, base=SIBLING)
    assert small.folder != SPANISH_NUMBERS_SHORT.folder
    assert small.folder != replace(small, base=replace(HEALING, steps=HEALING.steps + 1).name).folder


def test_layers_of_the_sibling_are_spread_evenly():
    kept = HEALING.kept(30)
    assert (len(kept), kept[0], kept[-1]) == (HEALING.layers, 0, 29)
    assert {after - before for before, after in pairwise(kept)} <= {2, 3}


def test_a_truncated_model_is_the_model_with_those_layers():
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=7, num_attention_heads=2
    )
    whole = transformers.LlamaForCausalLM(config).eval()
    half = truncated(whole, replace(HEALING, layers=3))
    ids = torch.arange(6)[None]
    kept = copy.deepcopy(whole)
    kept.model.layers = torch.nn.ModuleList([whole.model.layers[place] for place in (0, 3, 6)])
    kept.config.num_hidden_layers = 3
    assert torch.equal(half(ids, use_cache=False).logits, kept(ids, use_cache=False).logits)
    # Each layer has a place of its own in the cache.
    first = half(ids[:, :-1])
    last = half(ids[:, -1:], past_key_values=first.past_key_values)
    assert torch.allclose(last.logits[:, -1], half(ids).logits[:, -1], atol=1e-5)
    assert len(whole.model.layers) == 7
