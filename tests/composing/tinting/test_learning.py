"""Skills with a layer of their own for each task, from texts to the library."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

import skillpack
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.skills import recompose
from skillpack.composing.tinting.fitting import Tinting, spot_of
from skillpack.errors import SkillPackError, UsageError
from skillpack.texts import Sample
from skillpack_store import StoreError
from tests.composing.learned.conftest import opened, tiny  # noqa: F401

LAYER = "model.layers.1.mlp.down_proj.weight"
QUICK = {"steps": 12, "batch": 4, "max_tokens": 64, "how": Tinting(layer_rate=1e-3)}


@pytest.fixture
def store(tiny, tmp_path):  # noqa: F811
    """A copy of the store, to compose in."""
    return shutil.copytree(tiny.store, tmp_path / "store")


@pytest.fixture(scope="module")
def learned(tiny, tmp_path_factory):  # noqa: F811
    """The store after the command, and what it reported; not to be changed."""
    store = shutil.copytree(tiny.store, tmp_path_factory.mktemp("tinted") / "store")
    report = skillpack.learn_tints(["english", "german"], "both", data=tiny.tasks, base=tiny.base, store=store, **QUICK)
    return store, report


def test_each_task_has_a_layer_that_brings_it_nearer_to_its_expert(learned):
    store, report = learned
    assert report.layer == LAYER
    assert [tint.name for tint in report.tints] == ["both-english", "both-german"]
    assert all(tint.after < 0.9 * tint.before for tint in report.tints)
    assert (report.texts, report.held_out) == (8, 8)
    for tint in report.tints:
        shown = skillpack.show(tint.name, store=store)
        assert (shown.summary.digest, shown.summary.size) == (tint.digest, tint.size)
        assert [entry.name for entry in shown.skill.manifest.tensors] == [LAYER]
        assert not shown.skill.manifest.files
        assert shown.skill.manifest.recipe["task"] == tint.task
    assert report.shared.recipe.weights_of(LAYER) == [0.3, 0.3]
    assert report.shared.recipe.learned["method"] == "tinting"


def test_what_was_measured_is_what_an_install_gives(tiny, learned, tmp_path):  # noqa: F811
    """Beside the composed skill a layer is in place of the composed one, and taken off again it is not there."""
    store, report = learned
    skillpack.install("both", tiny.base, output=tmp_path / "both", store=store)
    before = load_file(tmp_path / "both" / "model.safetensors")
    skillpack.install("both-english", tmp_path / "both", store=store)
    after = load_file(tmp_path / "both" / "model.safetensors")
    assert {name for name in before if not torch.equal(before[name], after[name])} == {LAYER}
    skillpack.install("english", tiny.base, output=tmp_path / "english", store=store)
    evaluated = [
        skillpack.evaluate(skills, tiny.base, tmp_path / "english", tiny.tasks[0], store=store, tensors=False).kl
        for skills in (["both"], ["both", "both-english"])
    ]
    assert evaluated[1] < evaluated[0]
    skillpack.remove("both-english", tmp_path / "both")
    again = load_file(tmp_path / "both" / "model.safetensors")
    assert all(torch.equal(before[name], again[name]) for name in before)
    assert report.tints[0].after < report.tints[0].before


def test_the_same_command_gives_the_same_skills(tiny, learned, store):  # noqa: F811
    again = skillpack.learn_tints(["english", "german"], "both", data=tiny.tasks, base=tiny.base, store=store, **QUICK)
    assert [tint.digest for tint in again.tints] == [tint.digest for tint in learned[1].tints]
    assert again.shared.digest == learned[1].shared.digest


def test_the_composed_skill_can_be_made_again_and_a_layer_cannot(tiny, learned):  # noqa: F811
    store, _ = learned
    assert recompose("both", base=tiny.base, store=store).same
    with pytest.raises(UsageError, match="learns from texts"):
        recompose("both-english", base=tiny.base, store=store)


def test_a_layer_that_helps_nothing_is_not_kept(tiny, store):  # noqa: F811
    """Learned fast from other texts than the held-out ones, of which there is every fourth."""
    data = [
        [sample if place % 4 == 3 else Sample(text="zq" * (place + 3)) for place, sample in enumerate([*task, *task])]
        for task in tiny.tasks
    ]
    how = Tinting(layer_rate=50.0)
    report = skillpack.learn_tints(
        ["english", "german"], "both", data=data, base=tiny.base, store=store, **{**QUICK, "how": how}
    )
    assert (report.texts, report.held_out) == (12, 4)
    for tint in report.tints:
        assert (tint.name, tint.version, tint.digest) == ("", None, "")
        assert tint.after > tint.before
    assert {each.name for each in skillpack.list(store=store)} == {
        *("english", "german", "english-exact", "german-exact", "both")
    }


def test_prompts_are_answered_by_the_expert_of_their_task(tiny, store):  # noqa: F811
    prompts = [[Sample(messages=({"role": "user", "content": text},)) for text in ("Hi", "Who?", "12")]] * 2
    report = skillpack.learn_tints(
        ["english", "german"], "both", data=prompts, base=tiny.base, store=store, **{**QUICK, "steps": 2}
    )
    assert report.held_out == 6


@pytest.mark.parametrize(
    ("addresses", "more", "says"),
    [
        (["english"], {}, "composed of several"),
        (["english", "english"], {}, "same name"),
        (["english=0.5", "german"], {}, "came with one"),
        (["english", "german"], {"data": [[Sample(text="abc")]]}, "1 tasks for 2 skills"),
        (["english", "german"], {"steps": 0}, "0 steps"),
        (["english", "german"], {"how": Tinting(layer="model.norm.bias")}, "No skill changes"),
        (["english", "nobody"], {}, "nobody"),
    ],
)
def test_what_makes_no_sense_changes_nothing(tiny, store, addresses, more, says):  # noqa: F811
    before = skillpack.list(store=store)
    wanted = {"data": tiny.tasks, "base": tiny.base, "store": store, **QUICK, **more}
    with pytest.raises((SkillPackError, StoreError), match=says):
        skillpack.learn_tints(addresses, "both", **wanted)
    assert skillpack.list(store=store) == before


def test_the_layer_is_the_last_matrix_or_the_one_that_is_named(tiny, opened):  # noqa: F811
    live = LiveSum(tiny.base, opened("english", "german"))
    assert live.names[spot_of(live, None)] == LAYER
    assert live.names[spot_of(live, "model.norm.weight")] == "model.norm.weight"
