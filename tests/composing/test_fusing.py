"""The weights of logit fusion against the constraint written out, searched finely, in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.composing.fusing import LARGEST, TOLERANCE, fuse, fusion_weights

GRID = torch.linspace(0, LARGEST, 20_001, dtype=torch.float64)


def softmax(logits):
    numbers = [math.exp(value) for value in logits]
    return [number / sum(numbers) for number in numbers]


def kl(p, q):
    return sum(left * math.log(left / right) for left, right in zip(p, q, strict=True))


def misses(alpha, large, base, tuned):
    """The squared misses of the constraint, as the docstring has it, number by number."""
    p, q, t = softmax(large), softmax(base), softmax(tuned)
    moved = softmax([x + alpha * (z - y) for x, y, z in zip(large, base, tuned, strict=True)])
    return (kl(moved, p) - kl(t, q)) ** 2 + (kl(p, moved) - kl(q, t)) ** 2


def misses_on_grid(large, base, tuned):
    """The same at every point of a fine grid, in double precision."""
    large, base, tuned = (torch.tensor(values, dtype=torch.float64) for values in (large, base, tuned))
    p, q, t = large.log_softmax(0), base.log_softmax(0), tuned.log_softmax(0)
    moved = (large + GRID[:, None] * (tuned - base)).log_softmax(1)
    forward = (moved.exp() * (moved - p)).sum(1) - (t.exp() * (t - q)).sum()
    reverse = (p.exp() * (p - moved)).sum(1) - (q.exp() * (q - t)).sum()
    return forward**2 + reverse**2


def weight(large, base, tuned):
    found = fusion_weights(torch.tensor([large]), torch.tensor([base]), torch.tensor([[tuned]]))
    assert found.shape == (1, 1)
    return float(found)


def logits(size):
    return st.lists(st.floats(-6, 6, width=16), min_size=size, max_size=size)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 7).flatmap(lambda size: st.tuples(logits(size), logits(size), logits(size))))
def test_weights_solve_the_constraint_as_well_as_a_fine_search(models):
    found, searched = weight(*models), misses_on_grid(*models)
    assert 0 <= found <= LARGEST
    best = float(searched.min())
    assert misses(found, *models) == pytest.approx(misses(round(found, 12), *models))
    near = (GRID - found).abs() <= 2 * TOLERANCE
    assert float(searched[near].min()) <= best + 1e-6 * (1 + best)


def test_two_tokens_by_hand():
    # P is even, the small model goes from even to 3:1. The same shift does the same to P.
    assert weight([0.0, 0.0], [0.0, 0.0], [math.log(3), 0.0]) == pytest.approx(1, abs=TOLERANCE)
    # The small base leans to the first token with 3:1 and the skill doubles that; P leans to the other one with 3:1.
    large, base, tuned = [0.0, math.log(3)], [math.log(3), 0.0], [2 * math.log(3), 0.0]
    found = weight(large, base, tuned)
    best = min((step / 10_000 for step in range(20_001)), key=lambda alpha: misses(alpha, large, base, tuned))
    assert found == pytest.approx(best, abs=TOLERANCE + 1e-4)
    # A model that is sure of the second token takes more than there is to move as far.
    assert weight([0.0, 12.0], [0.0, 0.0], [1.0, 0.0]) == pytest.approx(LARGEST, abs=2 * TOLERANCE)


def test_a_large_model_that_is_the_small_one_becomes_the_tuned_one():
    torch.manual_seed(0)
    base, tuned = 3 * torch.randn(5, 400), 3 * torch.randn(1, 5, 400)
    found = fusion_weights(base, base, tuned)
    assert torch.allclose(found, torch.ones(1, 5), atol=2 * TOLERANCE)
    assert torch.allclose(fuse(base, base, tuned), tuned[0].log_softmax(-1), atol=0.02)
    assert torch.allclose(fuse(base, base, tuned, 1.0), tuned[0].log_softmax(-1), atol=1e-5)


def test_without_a_shift_nothing_changes():
    large, base = torch.randn(3, 50), torch.randn(3, 50)
    for alpha in (None, 1.0, 2.0):
        assert torch.allclose(fuse(large, base, base[None], alpha), large.log_softmax(-1), atol=1e-5)


def test_proxy_tuning_is_the_sum_of_logits():
    large, base, tuned = torch.randn(4, 30), torch.randn(4, 30), torch.randn(2, 4, 30)
    expected = (large + 0.7 * (tuned[0] - base) + 0.7 * (tuned[1] - base)).softmax(-1)
    assert torch.allclose(fuse(large, base, tuned, 0.7).exp(), expected, atol=1e-6)


def test_what_is_ruled_out_stays_ruled_out():
    torch.manual_seed(1)
    large, base, tuned = torch.randn(2, 20), torch.randn(2, 20), torch.randn(1, 2, 20)
    large[0, 3] = base[0, 3] = tuned[0, 0, 3] = large[1, 5] = base[1, 6] = tuned[0, 1, 7] = -torch.inf
    found = fuse(large, base, tuned)
    assert found.isneginf().nonzero().tolist() == [[0, 3], [1, 5]]
    assert not found.isnan().any()
    without = [token for token in range(20) if token != 3]
    expected = fuse(large[:1, without], base[:1, without], tuned[:, :1, without])
    assert torch.allclose(found[0, without], expected[0], atol=2e-3)


def test_constants_in_logits_do_not_matter():
    torch.manual_seed(2)
    large, base, tuned = torch.randn(3, 40), torch.randn(3, 40), torch.randn(2, 3, 40)
    found = fusion_weights(large, base, tuned)
    moved = fusion_weights(large + 5, base - 7, tuned + torch.tensor([1.0, -2.0])[:, None, None])
    assert torch.allclose(found, moved, atol=2 * TOLERANCE)


def test_the_same_skill_twice_is_that_skill():
    torch.manual_seed(3)
    large, base, tuned = torch.randn(4, 60), torch.randn(4, 60), torch.randn(1, 4, 60)
    once, twice = fusion_weights(large, base, tuned), fusion_weights(large, base, tuned.expand(2, 4, 60))
    assert torch.allclose(twice.sum(0), once[0], atol=4 * TOLERANCE)
    assert torch.equal(twice[0], twice[1])


def test_several_skills_move_as_far_as_they_do_on_average():
    torch.manual_seed(4)
    base, tuned = torch.randn(6, 60), torch.randn(3, 6, 60)
    alpha = fusion_weights(base, base, tuned)
    p, fused = base.log_softmax(-1), fuse(base, base, tuned, alpha)

    def apart(left, right):
        return (left.exp() * (left - right)).sum(-1)

    wanted = torch.stack([apart(each.log_softmax(-1), p) for each in tuned]).mean(0)
    wanted_back = torch.stack([apart(p, each.log_softmax(-1)) for each in tuned]).mean(0)
    found, found_back = apart(fused, p), apart(p, fused)
    between = (found - wanted) * (found_back - wanted_back)
    assert ((between <= 1e-6) | ((found - wanted).abs() < 0.01)).all()
    assert (fused - p).abs().max() > 0.1


def test_rows_do_not_depend_on_each_other():
    torch.manual_seed(5)
    large, base, tuned = torch.randn(3, 9, 40).split([1, 1, 1])
    whole = fusion_weights(large[0], base[0], tuned)
    one_by_one = [fusion_weights(large[0][row, None], base[0][row, None], tuned[:, row, None]) for row in range(9)]
    assert torch.allclose(whole, torch.cat(one_by_one, 1), atol=1e-6)
