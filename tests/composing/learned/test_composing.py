from __future__ import annotations

import shutil

import pytest
import torch

import skillpack
from skillpack.composing.learned import Atlas, Course, learn_weights, learned_compose, learned_method
from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.fitting import measure
from skillpack.composing.learned.learning import split
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.skills import recompose
from skillpack.errors import DataError, UsageError
from skillpack.grafting.addresses import Shelf
from skillpack.texts import Sample

QUICK = {"steps": 6, "batch": 4, "max_tokens": 64}


@pytest.fixture
def store(tiny, tmp_path):
    """A copy of the store, to compose in."""
    return shutil.copytree(tiny.store, tmp_path / "store")


def loss(tiny, store, name, weight=1):
    """Of a skill of the store, on all texts, nats per token; of the base at weight 0."""
    live = LiveSum(tiny.base, [active.skill for active in Shelf(store, "main").find([name])])
    live.set(torch.full((len(live.spots), 1), float(weight)))
    examples = Examples(tiny.tasks, live.model, tiny.tokenizer, batch=4, max_tokens=64, seed=0, labelled=True)
    return measure(live, examples.all())


@pytest.mark.parametrize("method", ["adamerging", "atlas", "self-positioning"])
def test_weights_make_a_skill_that_can_be_made_again_without_the_texts(tiny, store, method):
    names = ["english", "german"]
    report = learned_compose(names, "both", method=method, data=tiny.tasks, base=tiny.base, store=store, **QUICK)
    assert report.version == 1
    assert report.recipe.method == "sum"
    noted = report.recipe.learned
    assert (noted["method"], noted["steps"], len(noted["texts"])) == (method, 6, 64)
    first, last = noted["losses"]
    assert last < first
    again = recompose("both", base=tiny.base, store=store)
    assert again.same
    assert loss(tiny, store, "both") < loss(tiny, store, "english", weight=0)


def test_the_same_command_gives_the_same_skill(tiny, store):
    names = ["english", "german"]
    digests = {
        learned_compose(
            names, f"both-{turn}", method="adamerging", data=tiny.tasks, base=tiny.base, store=store, **QUICK
        ).digest
        for turn in range(2)
    }
    assert len(digests) == 1


def test_what_is_composed_is_what_was_learned(tiny, store):
    skills = Shelf(store, "main").find(["english", "german"])
    found = learn_weights(skills, Atlas(), tiny.tasks, tiny.base, course=Course(6, 4, 64))
    learned_compose(
        ["english", "german"], "both", method=Atlas(), data=tiny.tasks, base=tiny.base, store=store, **QUICK
    )
    live = LiveSum(tiny.base, [active.skill for active in skills])
    live.set(torch.tensor([found.weights[name] for name in live.names]))
    wanted = [spot.place.values.clone() for spot in live.spots]
    (both,) = Shelf(store, "main").find(["both"])
    composed = LiveSum(tiny.base, [both.skill])
    composed.set(torch.ones(len(composed.spots), 1))
    for spot, values in zip(composed.spots, wanted, strict=True):
        # Norms are bit for bit in the skill, and so rounded to bf16.
        torch.testing.assert_close(spot.place.values, values, rtol=2**-8, atol=1e-3)


def test_a_region_of_a_skill_is_a_smaller_skill(tiny, store):
    report = learned_compose(
        ["english-exact"],
        "core",
        method="localise",
        options={"keep": 0.6},
        data=tiny.tasks[0],
        base=tiny.base,
        store=store,
        **QUICK,
    )
    whole = skillpack.show("english-exact", store=store)
    noted = report.recipe.learned
    assert noted["share"] < 0.7
    assert noted["kept"] >= 0.6
    assert report.size < 0.8 * whole.summary.size
    assert report.recipe.options["mask"]


def test_a_mask_for_both(tiny, store):
    report = learned_compose(
        ["english", "german"], "both", method="concrete", data=tiny.tasks, base=tiny.base, store=store, seed=5, **QUICK
    )
    assert report.recipe.method == "concrete"
    assert report.recipe.learned["option.seed"] == report.recipe.learned["seed"] == 5
    assert [part.weight for part in report.recipe.parts] == [0.3, 0.3]


def test_dry_runs_store_nothing(tiny, store):
    before = skillpack.list(store=store)
    learned_compose(
        ["english"], "one", method="adamerging", data=tiny.tasks, base=tiny.base, store=store, dry_run=True, **QUICK
    )
    assert skillpack.list(store=store) == before


@pytest.mark.parametrize(
    ("addresses", "more", "words"),
    [
        (["english=0.5"], {}, "learns the weights itself"),
        (["english"], {"method": "astrology"}, "no method that learns"),
        (["english"], {"options": {"speed": 3}}, "no option speed"),
        (["english"], {"options": {"rate": "fast"}}, "no value for rate"),
        (["english", "german"], {"method": "localise"}, "one skill"),
        (["english"], {"steps": 0}, "0 steps"),
        (["english"], {"data": []}, "no texts"),
    ],
)
def test_what_makes_no_sense(tiny, store, addresses, more, words):
    wanted = {"method": "adamerging", "data": tiny.tasks, "base": tiny.base, "store": store, **QUICK, **more}
    with pytest.raises(UsageError, match=words):
        learned_compose(addresses, "one", **wanted)


def test_prompts_are_answered_by_the_skill_of_their_task(tiny, store, monkeypatch):
    """With as many tasks as skills; otherwise by the sum that learning begins with."""
    written = []

    def complete(model, tokenizer, samples, tokens, *, progress):
        written.append(model.model.norm.weight.detach().float().clone())
        return samples

    monkeypatch.setattr("skillpack.composing.learned.learning.complete", complete)
    skills = Shelf(store, "main").find(["english", "german"])
    live = LiveSum(tiny.base, [active.skill for active in skills])
    (place,) = [place for place, spot in enumerate(live.spots) if spot.name == "model.norm.weight"]
    spot = live.spots[place]
    english, german = (delta.values() for delta in spot.deltas)
    course = Course(1, 4, 64)
    learn_weights(skills, learned_method("adamerging"), tiny.tasks, tiny.base, course=course)
    torch.testing.assert_close(written[0], spot.base.float() + english)
    torch.testing.assert_close(written[1], spot.base.float() + german)
    learn_weights(skills, learned_method("adamerging"), tiny.tasks[0], tiny.base, course=course)
    torch.testing.assert_close(written[2], spot.base.float() + 0.3 * (english + german))


def test_prompts_alone_are_enough_for_entropy(tiny, store):
    prompts = [Sample(messages=({"role": "user", "content": text},)) for text in ("Hi", "Who?", "12")]
    report = learned_compose(
        ["english", "german"], "both", method="adamerging", data=prompts, base=tiny.base, store=store, **QUICK
    )
    first, last = report.recipe.learned["losses"]
    assert last < first


def test_answers_are_needed_where_they_are_learned_from(tiny, store):
    prompts = [Sample(messages=({"role": "user", "content": "Hi"},))]
    with pytest.raises(DataError, match="have no answer"):
        learned_compose(["english"], "one", method="atlas", data=prompts, base=tiny.base, store=store, **QUICK)


def test_options_of_a_method_that_is_made_already():
    with pytest.raises(UsageError, match="twice"):
        learned_method(Atlas(), {"rate": 1})


def test_every_fourth_text_is_held_out():
    texts = [Sample(text=str(number)) for number in range(9)]
    train, held_out = split([texts, texts[:5]])
    assert [text.text for text in held_out[0]] == ["3", "7"]
    assert len(train[0]) == 7
    assert train[1] == held_out[1] == texts[:5]
