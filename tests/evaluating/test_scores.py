from __future__ import annotations

import math

import pytest
import torch

from skillpack.evaluating import scores
from skillpack.evaluating.scores import divergence, kl_gradient, negative_log_likelihood

HALF = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).log()
EVEN = torch.full((2, 3), 1 / 3).log()


@pytest.fixture(params=[1, 1 << 22], autouse=True)
def piece(request, monkeypatch):
    monkeypatch.setattr(scores, "_PIECE", request.param)


def test_divergence_by_hand():
    found = divergence(EVEN + 7, HALF)
    expected = [
        0.5 * math.log(1.5) + 0.5 * math.log(0.75),
        0.2 * math.log(0.3) + 0.8 * math.log(2.4),
    ]
    assert found.kl.tolist() == pytest.approx(expected, rel=1e-6)
    assert divergence(HALF, EVEN).kl[0].item() == pytest.approx((math.log(2 / 3) + 2 * math.log(4 / 3)) / 3, rel=1e-5)
    assert divergence(torch.tensor([[0.0, 1.0, 2.0]] * 2), HALF).agrees.tolist() == [False, True]


def test_a_model_does_not_differ_from_itself():
    logits = 20 * torch.randn(40, 300)
    found = divergence(logits, logits)
    assert found.kl.tolist() == [0.0] * 40
    assert found.agrees.all()


def test_outcomes_that_are_excluded():
    minus = -math.inf
    found = divergence(torch.tensor([[0.0, 0.0, minus]]), torch.tensor([[0.0, minus, minus]]))
    assert found.kl.item() == pytest.approx(math.log(2))
    assert divergence(torch.tensor([[0.0, minus]]), torch.tensor([[0.0, 0.0]])).kl.item() == math.inf


def test_likelihood_by_hand():
    found = negative_log_likelihood(HALF - 3, torch.tensor([1, 2]))
    assert found.tolist() == pytest.approx([math.log(4), -math.log(0.8)], rel=1e-6)


def test_gradient_is_that_of_autograd():
    logits, tuned = torch.randn(7, 11, requires_grad=True), torch.randn(7, 11)
    kl = (tuned.softmax(-1) * (tuned.log_softmax(-1) - logits.log_softmax(-1))).sum()
    (expected,) = torch.autograd.grad(kl, logits)
    torch.testing.assert_close(kl_gradient(logits, tuned), expected)
