"""A skill on a newer base of a real model: what it keeps there, and that the new base comes back."""

from __future__ import annotations

import shutil

import pytest

import skillpack
from recipes.measure import HeldOut
from recipes.tasks import TASKS
from skillpack.texts import Sample

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]


def test_a_skill_on_a_base_that_learned_something_else(smol, room, contents):
    """The fine-tune on French numbers is the newer base; figures are those of the recipes' own measurement."""
    exchanges = TASKS["spanish-numbers"].held_out()[:16]
    samples = [
        Sample(messages=({"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}))
        for one in exchanges
    ]
    store = shutil.copytree(smol.store, room / "store")
    report = skillpack.rebase("spanish", smol.french, base=smol.base, data=samples, store=store)
    assert (report.source, report.version) == ("spanish@1", 2)
    assert 0 < report.recoded < report.moved <= report.tensors <= 272
    assert 0 < report.conflicts.moved < 5
    assert 0 <= report.conflicts.risk <= report.conflicts.opposed < 0.6

    model = shutil.copytree(smol.french, room / "model")
    skillpack.install("spanish", model, store=store)
    measure = HeldOut(smol.french, smol.spanish, exchanges)
    nll = report.flips.nll
    assert nll.new == pytest.approx(float(measure.score(model).nll.mean()), rel=1e-3)
    assert nll.new_base == pytest.approx(measure.base_nll, rel=1e-3)
    assert nll.old == pytest.approx(measure.tuned_nll, rel=0.02)
    assert report.flips.kept == pytest.approx((nll.new_base - nll.new) / (nll.old_base - nll.old))
    assert report.flips.kept > 0

    skillpack.remove(["spanish"], model)
    assert contents(model) == contents(smol.french)
