"""A skill on a newer base of a real model: what it keeps there, and that the new base comes back."""

from __future__ import annotations

import shutil

import pytest

import skillpack
from recipes.tasks import TASKS
from skillpack.texts import Sample

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]


def test_a_skill_on_a_base_that_learned_something_else(smol, room, contents):
    """The base of the French fine-tune is the newer base: a base that was trained on other texts."""
    samples = [
        Sample(messages=({"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}))
        for one in TASKS["spanish-numbers"].held_out()[:16]
    ]
    store = shutil.copytree(smol.store, room / "store")
    report = skillpack.rebase("spanish", smol.french, base=smol.base, data=samples, store=store)
    assert (report.source, report.version) == ("spanish@1", 2)
    assert 0 < report.recoded < report.moved <= report.tensors <= 272
    assert 0 < report.conflicts.moved < 5
    assert 0 <= report.conflicts.risk <= report.conflicts.opposed < 0.6
    assert report.flips.kept >= 0.7
    assert report.flips.nll.new < report.flips.nll.new_base
    assert 0 <= report.flips.negative <= report.flips.right.old

    model = shutil.copytree(smol.french, room / "model")
    skillpack.install("spanish", model, store=store)
    assert contents(model) != contents(smol.french)
    skillpack.remove(["spanish"], model)
    assert contents(model) == contents(smol.french)
