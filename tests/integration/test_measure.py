"""Measuring with held-out exchanges, on a real fine-tune."""

from __future__ import annotations

import pytest
import torch

from recipes import measure
from recipes.finetune import SPANISH_NUMBERS_SHORT, fine_tune
from recipes.measure import HeldOut, load
from recipes.models import smollm2
from recipes.tasks import TASKS

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]


@pytest.fixture(scope="module")
def held_out():
    return HeldOut(smollm2(), fine_tune(SPANISH_NUMBERS_SHORT), TASKS["spanish-numbers"].held_out()[:35])


def test_the_fine_tune_keeps_all_and_the_base_nothing(held_out):
    tuned, base = held_out.summary(held_out.tuned), held_out.summary(held_out.base)
    assert (tuned.kept, tuned.kl, tuned.agreement) == (1.0, 0.0, 1.0)
    assert base.kept == 0.0
    assert base.kl > 1
    assert base.agreement < 0.9
    assert held_out.base_nll > held_out.tuned_nll + 1


def test_likelihoods_are_those_of_the_model_itself(held_out):
    batches = held_out._batches
    assert len(batches) == 2
    model, total = load(smollm2()), 0.0
    for batch in batches:
        with torch.inference_mode():
            loss = model(**batch).loss
        total += float(loss) * int((batch["labels"] >= 0).sum())
    assert held_out.base_nll == pytest.approx(total / held_out.tokens, rel=1e-5)
    assert held_out.answer.bincount().tolist() == [int(n) for b in batches for n in (b["labels"] >= 0).sum(1)]


def test_long_answers_are_projected_in_pieces(held_out, monkeypatch):
    monkeypatch.setattr(measure, "_PROJECTED", 7)
    found = held_out.score(smollm2())
    assert torch.allclose(found.nll, held_out.base.nll, atol=1e-4)
    assert torch.allclose(found.kl, held_out.base.kl, atol=1e-4)
