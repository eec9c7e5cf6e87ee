"""Weights look like fp32 to whoever computes with them, and gradients come out as from an fp32 model."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from skillpack.live.models import open_model
from skillpack.live.precision import compute_in_fp32, weight_gradients
from tests.live import models
from tests.live.test_models import IDS, MASK, reference


class Peeking(torch.nn.Module):
    """Uses a weight of its own, one of another module, and one of both."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.randn(4))
        self.table = torch.nn.Embedding(6, 4)
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, tokens):
        states = self.linear(self.table(tokens).to(self.linear.weight.dtype)) * self.scale
        return torch.nn.functional.linear(states, self.table.weight) + self.scale.sum()


def both(dtype):
    torch.manual_seed(0)
    stored = Peeking().to(dtype)
    plain = Peeking()
    plain.load_state_dict({name: weight.float() for name, weight in stored.state_dict().items()})
    compute_in_fp32(stored)
    return stored, plain


def gradients(model, loss):
    found = {}

    def sink(name, gradient):
        assert gradient.dtype == torch.float32
        found[name] = found.get(name, 0) + gradient

    with weight_gradients(model, sink):
        loss(model).backward()
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_any_use_of_a_weight_is_in_fp32(dtype):
    stored, plain = both(dtype)
    tokens = torch.tensor([[0, 5, 5], [2, 1, 0]])
    assert {weight.dtype for weight in stored.parameters()} == {dtype}
    assert torch.equal(stored(tokens), plain(tokens))
    with torch.no_grad():
        assert torch.equal(stored(tokens), plain(tokens))
    found = gradients(stored, lambda model: model(tokens).square().sum())
    plain(tokens).square().sum().backward()
    assert found.keys() == dict(plain.named_parameters()).keys()
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(found[name], weight.grad)
    assert all(weight.grad is None for weight in stored.parameters())


def loss(model):
    return model(input_ids=IDS, attention_mask=MASK).logits[MASK.bool()].float().square().mean()


@pytest.mark.parametrize("make", [models.llama, models.mixtral, models.bert], ids=lambda make: make.__name__)
def test_gradients_of_models_are_those_of_transformers(tmp_path, make):
    folder = make(tmp_path / "model")

    def score(model):
        logits = model(input_ids=IDS, attention_mask=MASK).logits
        return (logits[MASK.bool()] if logits.dim() == 3 else logits).square().mean()

    expected = reference(folder)
    score(expected).backward()
    opened = open_model(folder)
    found = gradients(opened, score)
    wanted = {name: weight.grad for name, weight in expected.named_parameters() if weight.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert not any(weight.requires_grad for weight in opened.parameters())


def test_a_tied_weight_has_a_gradient_for_each_use(tmp_path):
    calls = []
    opened = open_model(models.llama(tmp_path / "model"))
    with weight_gradients(opened, lambda name, _: calls.append(name)):
        loss(opened).backward()
    assert calls.count("model.embed_tokens.weight") == 2
    assert max(calls.count(name) for name in calls if "embed" not in name) == 1


def test_autograd_keeps_no_widened_weight(monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)).bfloat16()
    compute_in_fp32(model)
    original, widened = torch.nn.functional.linear, []

    def spying(states, weight, bias=None):
        widened.append(weakref.ref(weight))
        return original(states, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spying)
    states = torch.randn(3, 8, requires_grad=True)
    result = model(states).sum()
    gc.collect()
    assert [reference() for reference in widened] == [None, None]
    result.backward()
    expected = torch.ones(3, 8) @ model[1].weight.detach() @ model[0].weight.detach()
    torch.testing.assert_close(states.grad, expected)
