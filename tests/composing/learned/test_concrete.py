from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skillpack.composing.learned.concrete import Concrete
from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.fitting import measure
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.learned.masking import Masked, mask_digest
from skillpack.composing.protocol import Deltas, Source
from skillpack.progress import silent


def test_a_mask_is_drawn_by_the_papers_formula():
    """m = sigmoid((log u - log(1 - u) + x) / T) over its mean."""
    method = Concrete(temperature=0.5, seed=3)
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.0]])
    found = method._drawn(logits, 7, 2)
    generator = torch.Generator().manual_seed(((3 << 20) + 7 << 20) + 2)
    plain = [
        1 / (1 + math.exp(-(math.log(u / (1 - u)) + x) / 0.5))
        for u, x in zip(
            torch.rand(2, 2, generator=generator).flatten().tolist(), logits.flatten().tolist(), strict=True
        )
    ]
    wanted = [each / (sum(plain) / 4) for each in plain]
    assert found.flatten().tolist() == pytest.approx(wanted, rel=1e-4)
    assert float(found.mean()) == pytest.approx(1.0)
    assert not torch.equal(found, method._drawn(logits, 8, 2))


def test_without_noise_nothing_learned_is_task_arithmetic():
    (factors,) = Concrete().factors([torch.zeros(3, 4)])
    torch.testing.assert_close(factors, torch.ones(3, 4))


def test_masks_without_noise_by_hand():
    """sigmoid(log 3 / (1/2)) = 9/10 and sigmoid(-log 3 / (1/2)) = 1/10, of mean 1/2."""
    logits = [torch.tensor([math.log(3.0), -math.log(3.0)])]
    assert Concrete().factors(logits)[0].tolist() == pytest.approx([1.8, 0.2])
    assert Concrete(discrete=True).factors(logits)[0].tolist() == pytest.approx([2.0, 0.0])
    assert Concrete(discrete=True).factors([-torch.ones(2)])[0].tolist() == [0.0, 0.0]


def test_the_first_step_goes_down_the_slope(tiny, opened):
    """Adam moves each logit by its rate against the sign of its derivative, found by finite differences here."""
    live = LiveSum(tiny.base, opened("english", "german"))
    method = Concrete(rate=0.01)

    def examples():
        return Examples(tiny.tasks, live.model, tiny.tokenizer, batch=4, max_tokens=64, seed=0, labelled=False)

    drawn = examples().draw()

    def loss(number, logits):
        for each in range(len(live.spots)):
            mask = method._drawn(logits if each == number else torch.zeros(live.spots[each].base.shape), 0, each)
            live.write(each, mask * method._summed(live, each))
        return measure(live, drawn)

    found = method.learn(live, examples(), 1, silent)
    assert len(found.logits) == len(live.spots)
    number = live.names.index("model.norm.weight")
    checked = 0
    for place in range(8):
        step = torch.zeros(live.spots[number].base.shape)
        step[place] = 0.2
        slope = (loss(number, step) - loss(number, -step)) / 0.4
        if abs(slope) > 2e-4:
            assert float(found.logits[number][place]) == pytest.approx(-0.01 * math.copysign(1, slope), rel=1e-2)
            checked += 1
    assert checked


def test_learning_makes_the_masked_sum_surer(tiny, opened):
    live = LiveSum(tiny.base, opened("english", "german"))
    method = Concrete(rate=0.3, scale=0.5)
    examples = Examples(tiny.tasks, live.model, tiny.tokenizer, batch=4, max_tokens=64, seed=0, labelled=False)
    live.set(method.start_weights(live))
    before = measure(live, examples.all())
    logits = method.learn(live, examples, 12, silent).logits
    for number, factor in enumerate(method.factors(logits)):
        live.write(number, factor * method._summed(live, number))
    assert measure(live, examples.all()) < before


def test_masking_multiplies_the_weighted_sum():
    sources = Source("a", "sha256:1"), Source("b", "sha256:2")
    arrays = np.float32([[1, 2], [3, 4]]), np.float32([[10, 0], [0, -10]])
    factors = {"w": np.float32([[1, 0], [0.5, 2]])}
    method = Masked(mask_digest(factors), factors)
    found = method.merge("w", Deltas(sources, arrays), [1.0, 0.5])
    np.testing.assert_allclose(found, [[6, 0], [1.5, -2]])
    np.testing.assert_allclose(method.merge("other", Deltas(sources, arrays), [1.0, 0.5]), [[6, 2], [3, -1]])


def test_another_mask_has_another_digest():
    one, other = {"w": np.zeros((2, 2), bool)}, {"w": np.eye(2, dtype=bool)}
    assert mask_digest(one) == mask_digest({"w": np.zeros((2, 2), bool)})
    assert len({mask_digest(one), mask_digest(other), mask_digest({"v": one["w"]})}) == 3
