"""AdaMerging, aTLAS and Self Positioning: what one step does, by the formulas, and that steps lower the loss."""

from __future__ import annotations

import pytest
import torch

from skillpack.composing.learned.adamerging import AdaMerging, Clamped
from skillpack.composing.learned.atlas import Atlas
from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.fitting import passes
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.learned.self_positioning import Position, SelfPositioning
from skillpack.progress import silent

RATE = 0.05


@pytest.fixture
def live(tiny, opened):
    return LiveSum(tiny.base, opened("english", "german"))


@pytest.fixture
def examples(tiny, live):
    def made(labelled):
        return Examples(tiny.tasks, live.model, tiny.tokenizer, batch=4, max_tokens=64, seed=0, labelled=labelled)

    return made


def slopes(live, examples, start):
    """Derivatives for all weights at the first draw."""
    live.set(torch.full((len(live.spots), 2), start))
    found, take = live.weight_gradient()
    passes(live, examples.draw(), take)
    return found


def test_adamerging_begins_at_three_tenths_and_adam_takes_a_step(live, examples):
    """Adam's first step is the rate against the sign of the derivative, for whatever is one coefficient."""
    expected = slopes(live, examples(False), 0.3)
    layers = AdaMerging(rate=RATE).learn(live, examples(False), 1, silent).weights
    torch.testing.assert_close(layers, 0.3 - RATE * expected.sign(), atol=2e-5, rtol=0)
    tasks = AdaMerging(layerwise=False, rate=RATE).learn(live, examples(False), 1, silent).weights
    wanted = (0.3 - RATE * expected.sum(0).sign()).expand_as(tasks)
    torch.testing.assert_close(tasks, wanted, atol=2e-5, rtol=0)


def test_adamerging_stays_between_nought_and_one(live):
    weighting = Clamped(live, start=0.3, layerwise=True)
    with torch.no_grad():
        weighting.parameters[0][0, 0], weighting.parameters[0][0, 1] = -0.4, 1.7
    weights = weighting.weights()
    assert weights[0].tolist() == [0.0, 1.0]
    weights.sum().backward()
    gradient = weighting.parameters[0].grad
    assert gradient[0].tolist() == [0.0, 0.0]
    assert float(gradient[1:].min()) == 1.0


def test_its_rate_goes_as_far_in_all_as_the_papers(live, examples):
    found = AdaMerging().learn(live, examples(False), 5, silent).weights
    assert float((found - 0.3).abs().max()) < 0.51


def test_atlas_begins_at_the_base_and_has_a_coefficient_for_each_block(live, examples):
    expected = slopes(live, examples(True), 0.0)
    found = Atlas(rate=RATE).learn(live, examples(True), 1, silent).weights
    torch.testing.assert_close(found, -RATE * expected.sign(), atol=2e-5, rtol=0)


def test_atlas_decays_towards_the_base(live, examples):
    """AdamW: the weight is multiplied with 1 - rate x decay before the step."""
    expected = slopes(live, examples(True), 0.5)
    found = Atlas(rate=RATE, decay=0.4, start=0.5).learn(live, examples(True), 1, silent).weights
    torch.testing.assert_close(found, 0.5 * (1 - RATE * 0.4) - RATE * expected.sign(), atol=2e-5, rtol=0)


def test_a_position_is_a_convex_combination_times_a_scale(live):
    weighting = Position(live, 2.0)
    with torch.no_grad():
        weighting.parameters[0][1] = torch.log(torch.tensor(3.0))
    assert weighting.weights()[5].tolist() == pytest.approx([0.5, 1.5])


def test_self_positioning_takes_a_step_of_gradient_descent(live, examples):
    """At equal shares dL/da_k = s g_k, da_k/dx_k = 1/4, da_k/dx_j = -1/4, and dL/ds = (g_1 + g_2) / 2."""
    first, second = slopes(live, examples(True), 0.5).sum(0).tolist()
    found = SelfPositioning(rate=0.01).learn(live, examples(True), 1, silent).weights[0]
    logits = torch.tensor([-0.01 * (first - second) / 4, -0.01 * (second - first) / 4])
    scale = 1 - 0.01 * (first + second) / 2
    torch.testing.assert_close(found, scale * logits.softmax(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [AdaMerging(), AdaMerging(layerwise=False), Atlas(), SelfPositioning()])
def test_learning_lowers_the_loss_and_leaves_the_model_with_what_was_learned(live, examples, method):
    found = method.learn(live, examples(method.labelled), 12, silent)
    assert found.losses[-1] < found.losses[0]
    before = [spot.place.values.clone() for spot in live.spots]
    live.set(found.weights)
    for spot, values in zip(live.spots, before, strict=True):
        torch.testing.assert_close(spot.place.values, values)


def test_learning_again_gives_the_same(live, examples):
    runs = [AdaMerging().learn(live, examples(False), 3, silent).weights for _ in range(2)]
    assert torch.equal(*runs)


def test_progress_is_told_in_bytes(live, examples):
    told = []
    AdaMerging().learn(live, examples(False), 2, lambda *each: told.append(each))
    size = sum(spot.place.tensor.numel() * 2 for spot in live.spots)
    assert told == [(done * size, 2 * size, "learning weights") for done in range(3)]
