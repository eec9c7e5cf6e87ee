"""The comparison of methods: what its table says, and that no setting hides another."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from benchmarks.baselines.catalogue import METHODS
from benchmarks.comparing import curves, ladders, pairs
from benchmarks.comparing.table import all_rows, own, savings, table
from benchmarks.comparison import described
from recipes.suite import SUITE
from skillpack.checkpoint import open_checkpoint
from skillpack.safetensors_file import write_safetensors
from skillpack.tensors import Tensor


def figures(*points):
    return {"tasks": {"cities": {"points": [dict(zip(("method", "setting", "bytes", "kl"), one)) for one in points]}}}  # noqa: B905


OURS = [("SkillPack", "a", 1_000_000, 0.01), ("SkillPack", "b", 100_000, 0.1)]


def test_the_table_shows_where_another_method_is_strongest():
    found = figures(*OURS, ("DARE", "weak", 9_000_000, 0.03), ("DARE", "strong", 500_000, 0.03))
    *_, line = table(found)
    assert "DARE (strong) | 0.50 MB | 0.03 | 0.33 MB (0.67) | - |" in line
    assert len(list(table(found))) == 3


def test_our_own_skills_are_listed_with_their_distance_from_the_bound():
    found = figures(*OURS, ("DARE", "weak", 9_000_000, 0.03))
    found["tasks"]["cities"]["points"][0]["over_bound"] = 12.34
    *_, smaller, larger = own(found)
    assert smaller == "| cities | SkillPack | 0.10 MB | 0.1 | - | - |"
    assert larger == "| cities | SkillPack | 1.00 MB | 0.01 | 12.3 | - |"


def test_what_texts_save_is_read_off_the_curve_without_them():
    """A thousand times the bytes for a hundredth of the divergence: 100 kB for 0.1, 316 kB for 0.0316."""
    *_, taught = own(figures(*OURS, ("SkillPack, calibrated", "0.1%", 158_000, 0.0316)))
    assert taught == "| cities | SkillPack, calibrated | 0.16 MB | 0.032 | - | 50 % |"


def test_what_texts_save_on_average_is_over_what_both_curves_reach():
    """Half the bytes at 0.03, a quarter at 0.003; what is wilder than 0.05 does not count."""
    plain = [("SkillPack", "a", 10**5, 0.3), ("SkillPack", "b", 10**6, 0.03), ("SkillPack", "c", 10**7, 0.003)]
    taught = [("SkillPack, calibrated", "a", 500_000, 0.03), ("SkillPack, calibrated", "b", 2_500_000, 0.003)]
    *_, line = savings(figures(*plain, *taught))
    assert line == "| cities | 65 % |"
    *_, line = savings(figures(*plain))
    assert line == "| cities | - |"


def test_what_our_curve_does_not_reach_counts_as_strongest():
    found = figures(*OURS, ("DARE", "beyond", 9_000_000, 0.001), ("DARE", "within", 500_000, 0.03))
    *_, line = table(found)
    assert "DARE (beyond) | 9.00 MB | 0.001 | - | - |" in line


def test_only_divergences_in_the_range_are_compared():
    found = figures(*OURS, ("DARE", "wild", 10, 0.051), ("DARE", "exact", 10**9, 1.9e-4))
    assert list(all_rows(found)) == []


@pytest.mark.parametrize("settings", [ladders.LADDERS, ladders.everything()])
def test_every_method_is_there_and_settings_differ(settings):
    assert {type(one) for one in settings} == set(METHODS)
    names = [(one.name, described(one)) for one in settings]
    assert len(set(names)) == len(names)


def test_a_base_gets_the_names_of_its_fine_tune(tmp_path):
    rows = Tensor("F32", (2, 2), torch.arange(4.0).numpy().view(np.uint8))
    for folder, names in (("base", ["layer.weight"]), ("tuned", ["bert.layer.weight", "classifier.weight"])):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text("{}")
        entries = dict.fromkeys(names, ("F32", (2, 2)))
        write_safetensors(tmp_path / folder / "model.safetensors", entries, lambda _: rows)
    folder = pairs.renamed(tmp_path / "base", tmp_path / "tuned", tmp_path / "renamed")
    found = open_checkpoint(folder)
    assert list(found.tensors) == ["bert.layer.weight"]
    assert found.read("bert.layer.weight").data.tobytes() == rows.data.tobytes()


def test_the_suite_has_five_language_models_and_an_encoder():
    assert len(SUITE) == 6
    assert "drug-reviews" in SUITE


def test_examples():
    assert doctest.testmod(curves).failed == 0
