from __future__ import annotations

import pytest
import torch

from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.live import LiveSum
from skillpack.composing.learned.localising import Localise, gate, gate_slope, largest, open_gates
from skillpack.errors import DataError, UsageError
from skillpack.progress import silent

FIRST = torch.tensor([True, False])


@pytest.fixture
def live(tiny, opened):
    return LiveSum(tiny.base, opened("english"))


@pytest.fixture
def examples(tiny, live):
    def made(task=0):
        return Examples(
            tiny.tasks[task : task + 1],
            live.model,
            tiny.tokenizer,
            batch=4,
            max_tokens=64,
            seed=0,
            labelled=True,
        )

    return made


def test_a_gate_by_hand():
    """gamma = b + (1 - 2 b) sigmoid(S); at S = 0 both are half open, at S = -10 all but what they were at first."""
    assert gate(FIRST, torch.zeros(2)).tolist() == [0.5, 0.5]
    shut = gate(FIRST, torch.full((2,), -10.0)).tolist()
    assert shut == pytest.approx([1 - 4.54e-5, 4.54e-5], rel=1e-3)
    assert gate_slope(FIRST, torch.zeros(2)).tolist() == [-0.25, 0.25]
    step = 1e-3
    for start in (-2.0, 0.7):
        ends = [gate(FIRST, torch.full((2,), start + side, dtype=torch.float64)) for side in (step, -step)]
        wanted = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(
            gate_slope(FIRST, torch.full((2,), start, dtype=torch.float64)), wanted, rtol=1e-4, atol=0
        )


def test_gates_that_stay_open():
    logits = [torch.tensor([10.0, -3.0, 0.5]), torch.tensor([[12.0], [-10.0]])]
    assert [each.tolist() for each in open_gates(logits, None)] == [[True, False, True], [[True], [False]]]
    assert [each.tolist() for each in open_gates(logits, 0.4)] == [[True, False, False], [[True], [False]]]
    assert [each.tolist() for each in open_gates(logits, 1.0)] == [[True, False, True], [[True], [False]]]


def test_the_largest_changes_of_all_tensors(live):
    """Exactly the share that is asked for, and nothing that is left out is larger than what is in."""
    values = [spot.deltas[0].values() for spot in live.spots]
    masks = largest(live, 0.1)
    count, total = sum(int(mask.sum()) for mask in masks), sum(value.numel() for value in values)
    assert count == pytest.approx(0.1 * total, rel=0.02)
    least = min(float(value.abs()[mask].min()) for value, mask in zip(values, masks, strict=True) if mask.any())
    most = max(float(value.abs()[~mask].max()) for value, mask in zip(values, masks, strict=True) if not mask.all())
    assert most < least


def test_without_steps_it_is_the_magnitude_baseline(live, examples):
    found = Localise(keep=0.7).learn(live, examples(), examples(), 0, silent)
    assert found.learned is None
    shares = [share for share, _ in found.magnitude]
    assert shares[0] == 1.0
    assert shares == pytest.approx([2.0**-place for place in range(len(shares))], rel=0.05)
    assert found.magnitude[-1][1] < 0.7
    assert found.chosen.share == pytest.approx(shares[-2])
    assert found.chosen.kept >= 0.7


def test_learning_keeps_more_in_the_same_share(live, examples):
    found = Localise(share=0.1).learn(live, examples(), examples(), 25, silent)
    ((_, plain),) = found.magnitude
    assert found.learned is not None
    assert found.learned.share <= 0.1
    assert found.learned.kept > plain + 0.1
    assert found.chosen is found.learned


def test_the_region_is_what_was_measured(live, examples):
    """The graft of the chosen region keeps what the report says: nothing but its entries differs from the base."""
    found = Localise(keep=0.8).learn(live, examples(), examples(), 5, silent)
    sizes = sum(mask.numel() for mask in found.chosen.masks)
    assert found.chosen.share == pytest.approx(sum(int(mask.sum()) for mask in found.chosen.masks) / sizes)


def test_a_skill_that_does_not_help_has_no_region(live, examples):
    live.set(torch.zeros(len(live.spots), 1))
    for spot in live.spots:
        spot.deltas[0].kept.neg_()
    with pytest.raises(DataError, match="no better than the base"):
        Localise().learn(live, examples(), examples(), 1, silent)


@pytest.mark.parametrize("option", ["share", "keep"])
@pytest.mark.parametrize("value", [0.0, 1.5])
def test_shares_are_shares(option, value):
    with pytest.raises(UsageError, match=option):
        Localise(**{option: value})
