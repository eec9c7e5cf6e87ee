"""The module and how it is learned, on numbers that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

from skillpack.composing.surgery.fitting import Fitting, Pairs, _rows, distance, fit
from skillpack.composing.surgery.module import Bias

HOW = Fitting(rank=2, steps=400, batch=4, rate=0.01, seed=0, device="cpu")


def test_a_case_by_hand():
    bias = Bias(
        down=torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 2.0]]), up=torch.tensor([[1.0, 0.0], [0.0, 0.5], [3.0, 1.0]])
    )
    # W_down z = (4, -2), of which the ReLU leaves (4, 0); W_up of that is (4, 0, 12).
    torch.testing.assert_close(bias.taken_off(torch.tensor([5.0, 1.0, -1.0])), torch.tensor([1.0, 1.0, -13.0]))
    # W_down z = (-1, 6), (0, 6), (0, 3 + 6).
    torch.testing.assert_close(bias.taken_off(torch.tensor([[0.0, 1.0, 3.0]])), torch.tensor([[0.0, -2.0, -3.0]]))
    assert (bias.rank, bias.width) == (2, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_it_keeps_shape_and_dtype(dtype):
    bias = Bias(torch.randn(2, 5), torch.randn(5, 2))
    states = torch.randn(3, 4, 5)
    found = bias.taken_off(states.to(dtype))
    assert (found.shape, found.dtype) == (states.shape, dtype)
    torch.testing.assert_close(found.float(), bias.taken_off(states.to(dtype).float()), rtol=2**-7, atol=2**-7)


def pairs(merged, expert, texts=8):
    return Pairs(merged, expert, torch.arange(len(merged)) % texts)


def test_distances_are_means_over_all_numbers():
    both = pairs(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert distance(both) == (0 + 2 + 3 + 4) / 4
    assert distance(both, Bias(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]]))) == (1 + 2 + 0 + 4) / 4


def test_before_the_first_step_nothing_is_taken_off():
    """W_up is zero, so that the first step moves W_up alone, by the rate."""
    torch.manual_seed(0)
    both = pairs(torch.randn(8, 6), torch.randn(8, 6))
    once = fit(both, HOW._replace(steps=1))
    assert float(once.up.abs().max()) == pytest.approx(HOW.rate, rel=1e-3)
    draws = torch.Generator().manual_seed(0)
    torch.testing.assert_close(once.down, torch.empty(2, 6).uniform_(-(6**-0.5), 6**-0.5, generator=draws))


def test_a_bias_of_low_rank_is_found():
    torch.manual_seed(0)
    true = Bias(torch.randn(1, 6), torch.randn(6, 1))
    merged = torch.randn(400, 6)
    both = pairs(merged, true.taken_off(merged), texts=40)
    found = fit(both, HOW._replace(rank=4, steps=1500))
    unseen = torch.randn(100, 6)
    held_out = pairs(unseen, true.taken_off(unseen))
    assert distance(held_out, found) < 0.1 * distance(held_out)
    assert torch.equal(fit(both, HOW).up, fit(both, HOW).up)


def test_every_text_has_its_turn_before_one_comes_again():
    sample = torch.tensor([2, 0, 2, 1, 1, 2])
    rows = _rows(sample, 2, torch.Generator().manual_seed(0))
    drawn = [next(rows) for _ in range(3)]
    assert all(len(sample[each].unique()) == 2 for each in drawn)
    assert sorted(torch.cat(drawn).tolist()) == sorted([*range(6)] * 2)


def test_progress_counts_every_step():
    told = []
    fit(pairs(torch.ones(4, 3), torch.zeros(4, 3)), HOW._replace(steps=5), lambda *step: told.append(step))
    assert len(told) == 6
    assert told[-1][0] == told[-1][1]
