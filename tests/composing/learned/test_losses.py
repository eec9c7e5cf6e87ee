from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skillpack.composing.learned.losses import cross_entropy, entropy

LOGITS = torch.tensor([[0.0, math.log(3.0)], [2.0, 2.0]])


def test_entropy_by_hand():
    """Probabilities 1/4 and 3/4: H = 1/4 log 4 + 3/4 log 4/3, dH/dz_2 = -3/4 (log 3/4 + H) = -3/16 log 3."""
    found = entropy(LOGITS)
    wanted = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert found.each.tolist() == pytest.approx([wanted, math.log(2)])
    slope = 3 / 16 * math.log(3)
    assert found.gradient[0].tolist() == pytest.approx([slope, -slope])
    assert found.gradient[1].tolist() == pytest.approx([0.0, 0.0], abs=1e-7)


def test_cross_entropy_by_hand():
    found = cross_entropy(LOGITS, torch.tensor([0, 1]))
    assert found.each.tolist() == pytest.approx([math.log(4), math.log(2)])
    assert found.gradient.flatten().tolist() == pytest.approx([-0.75, 0.75, 0.5, -0.5])


@given(st.lists(st.floats(-4, 4), min_size=3, max_size=6), st.integers(0, 2))
def test_gradients_are_those_of_finite_differences(values, target):
    logits = torch.tensor([values], dtype=torch.float64)
    targets = torch.tensor([target])
    for loss in (entropy, lambda at: cross_entropy(at, targets)):
        gradient = loss(logits).gradient[0]
        for place in range(len(values)):
            step = torch.zeros_like(logits)
            step[0, place] = 1e-5
            slope = float(loss(logits + step).each - loss(logits - step).each) / 2e-5
            assert float(gradient[place]) == pytest.approx(slope, abs=1e-6)


def test_excluded_outcomes_cost_nothing():
    found = entropy(torch.tensor([[0.0, 0.0, -math.inf]]))
    assert found.each.tolist() == pytest.approx([math.log(2)])
    assert torch.isfinite(found.gradient).all()


def test_pieces_make_no_difference(monkeypatch):
    logits, targets = torch.randn(7, 5), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    whole = entropy(logits), cross_entropy(logits, targets)
    monkeypatch.setattr("skillpack.composing.learned.losses._PIECE", 10)
    for one, other in zip(whole, (entropy(logits), cross_entropy(logits, targets)), strict=True):
        torch.testing.assert_close(one.each, other.each)
        torch.testing.assert_close(one.gradient, other.gradient)


def test_shares_weigh_predictions():
    loss = entropy(LOGITS)
    total, gradient = entropy(LOGITS).weighted(torch.tensor([0.5, 2.0]))
    assert total == pytest.approx(0.5 * float(loss.each[0]) + 2 * float(loss.each[1]))
    torch.testing.assert_close(gradient, loss.gradient * torch.tensor([[0.5], [2.0]]))
