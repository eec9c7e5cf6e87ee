"""Learning on a real model: derivatives for weights of stored factors are those of the model's own loss."""

from __future__ import annotations

import pytest
import torch

from recipes.tasks import TASKS
from skillpack.composing.learned.adamerging import Clamped
from skillpack.composing.learned.deltas import Product
from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.fitting import measure, passes
from skillpack.composing.learned.live import LiveSum
from skillpack.grafting.addresses import Shelf
from skillpack.live.models import open_tokenizer
from skillpack.texts import Sample

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]


def test_weights_of_a_real_skill_have_the_right_derivatives(smol):
    (active,) = Shelf(smol.store, "main").find(["spanish"])
    live = LiveSum(smol.base, [active.skill])
    assert any(isinstance(spot.deltas[0], Product) for spot in live.spots)
    exchanges = TASKS["spanish-numbers"].held_out()[:2]
    samples = [
        Sample(messages=({"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}))
        for one in exchanges
    ]
    tokenizer = open_tokenizer(smol.base)
    examples = Examples([samples], live.model, tokenizer, batch=2, max_tokens=96, seed=0, labelled=True)
    weights, pieces = Clamped(live, start=0.5, layerwise=False).weights().detach(), examples.all()
    live.set(weights)
    found, take = live.weight_gradient()
    loss = passes(live, pieces, take)
    sides = []
    for side in (0.03, -0.03):
        live.set(weights + side)
        sides.append(measure(live, pieces))
    assert float(found.sum()) == pytest.approx((sides[0] - sides[1]) / 0.06, rel=0.02)
    assert sides[0] < loss < sides[1]
    assert torch.isfinite(found).all()
