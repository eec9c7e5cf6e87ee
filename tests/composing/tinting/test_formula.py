"""What one step does, by the formulas of the paper."""

from __future__ import annotations

import pytest
import torch

from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.tinting.fitting import Tinting, distance, fit, put, spot_of, verdicts
from skillpack.composing.tinting.trusting import Verdict, trusted
from skillpack.live.predictions import predict
from tests.composing.learned.conftest import opened, tiny  # noqa: F401

RATE, LAYER_RATE = 0.05, 1e-3


@pytest.fixture
def live(tiny, opened):  # noqa: F811
    return LiveSum(tiny.base, opened("english", "german"))


def tasks(tiny, live):  # noqa: F811
    return [
        Examples([group], live.model, tiny.tokenizer, batch=4, max_tokens=64, seed=0, labelled=False)
        for group in tiny.tasks
    ]


def test_an_expert_is_believed_unless_the_merged_model_is_surer_of_something_else():
    """Three outcomes, four predictions: the same, the expert surer, as sure, the merged model surer."""
    expert = torch.tensor([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.4, 0.3, 0.3]]).log()
    merged = torch.tensor([[0.9, 0.05, 0.05], [0.3, 0.6, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1]]).log()
    first, second = Verdict.of(expert), Verdict.of(merged)
    torch.testing.assert_close(first.sure, torch.tensor([0.5, 0.7, 0.6, 0.4]))
    assert first.best.tolist() == [0, 0, 0, 0]
    assert trusted(first, second).tolist() == [True, True, True, False]


def test_layers_begin_as_the_experts_and_adam_takes_a_step(tiny, live):  # noqa: F811
    """Of both, the rate against the sign of the derivative of the cross-entropy of what the expert finds likeliest.

    German texts for the English skill: the merged model is surer of some of them.
    """
    spot = spot_of(live, None)
    (piece,) = tasks(tiny, live)[1].draw()
    (expert,) = verdicts(live, 0, [piece])
    start = torch.full((len(live.spots), 2), 0.9)
    layer = live.spots[spot].deltas[0].values()
    put(live, start, spot, layer)
    slope = torch.zeros_like(layer)
    weights, take = live.weight_gradient()

    def both(number, gradient):
        take(number, gradient)
        if number == spot:
            slope.add_(gradient)

    with live.gradients(both), torch.enable_grad():
        logits = predict(live.model, piece.batch)
        believed = trusted(expert, Verdict.of(logits.detach()))
        assert 0 < int(believed.sum()) < len(believed), "the filter does something"
        torch.nn.functional.cross_entropy(logits[believed], expert.best[believed]).backward()

    how = Tinting(start=0.9, rate=RATE, layer_rate=LAYER_RATE)
    found = fit(live, tasks(tiny, live)[1:], how, steps=1)
    torch.testing.assert_close(found.layers[0], layer - LAYER_RATE * slope.sign(), atol=2e-5, rtol=0)
    weights[spot] = 0
    torch.testing.assert_close(found.weights, 0.9 - RATE * weights.sign(), atol=2e-5, rtol=0)


def test_a_task_changes_its_own_layer_only(tiny, live):  # noqa: F811
    spot = spot_of(live, None)
    german = live.spots[spot].deltas[1].values()
    found = fit(live, [*tasks(tiny, live)[:1]], Tinting(), steps=2)
    assert len(found.layers) == 1
    both = fit(live, tasks(tiny, live), Tinting(layer_rate=0.0), steps=2)
    assert torch.equal(both.layers[1], german)
    assert both.weights[spot].tolist() == pytest.approx([0.3, 0.3])


def test_learning_comes_nearer_to_the_experts(tiny, live):  # noqa: F811
    spot, held = spot_of(live, None), []
    for number, task in enumerate(tasks(tiny, live)):
        pieces = task.all()
        held.append((pieces, verdicts(live, number, pieces)))

    def far(weights, layers):
        found = []
        for layer, (pieces, experts) in zip(layers, held, strict=True):
            put(live, weights, spot, layer)
            found.append(distance(live, pieces, experts))
        return found

    start = torch.full((len(live.spots), 2), 0.3)
    before = far(start, [delta.values() for delta in live.spots[spot].deltas])
    found = fit(live, tasks(tiny, live), Tinting(layer_rate=1e-3), steps=15)
    after = far(found.weights, found.layers)
    assert all(last < first for first, last in zip(before, after, strict=True))
    assert float(found.weights.min()) >= 0
    assert float(found.weights.max()) <= 1
    assert found.losses[-1] < found.losses[0]
