"""Figures of conflict, against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.rebasing import conflicts
from skillpack.rebasing.conflicts import summarise, sums_of, tensor_conflict
from skillpack.tensors import Tensor


def figures(delta, old, new, name="layers.0.w"):
    delta, old, new = (np.asarray(values, np.float32) for values in (delta, old, new))
    sums = sums_of(delta, Tensor.of(old), Tensor.of(new))
    return tensor_conflict(name, sums, changed=True, recoded=False), sums


@pytest.mark.parametrize(
    ("movement", "moved", "cosine", "opposed", "risk"),
    [
        ([0, 0, 0], 0, None, 0, 0),
        ([3, 0, -4], 1, 1, 0, 0),
        ([-3, 0, 4], 1, -1, 1, 1),
        ([-30, 0, 40], 10, -1, 1, 1),
        ([-1.5, 0, 2], 0.5, -1, 1, 0.5),
        ([4, 0, 3], 1, 0, 4 / 7, 3 / 7),
        ([0, 5, 0], 1, 0, 0, 0),
    ],
)
def test_movements_of_the_base(movement, moved, cosine, opposed, risk):
    found, _ = figures([3, 0, -4], [1, 1, 1], np.add([1, 1, 1], movement))
    assert found.moved == pytest.approx(moved)
    assert found.cosine == (None if cosine is None else pytest.approx(cosine, abs=1e-12))
    assert (found.opposed, found.risk) == (pytest.approx(opposed), pytest.approx(risk))


def test_a_skill_that_adds_nothing_has_no_figures():
    found, _ = figures([0, 0], [1, 2], [3, 4])
    assert (found.moved, found.cosine, found.opposed, found.risk) == (None,) * 4


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1, 7, 1 << 20]))
def test_blocks_change_nothing(seed, size, block):
    random = np.random.default_rng(seed)
    delta, old, new = random.normal(size=(3, size)).astype(np.float32)
    whole = sums_of(delta, Tensor.of(old), Tensor.of(new))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conflicts, "PIECE", block)
        assert sums_of(delta, Tensor.of(old), Tensor.of(new)) == pytest.approx(whole)
    movement = new.astype(float) - old
    against = delta.astype(float) * movement < 0
    found = tensor_conflict("w", whole, changed=True, recoded=False)
    assert found.opposed == pytest.approx(np.abs(delta)[against].sum() / np.abs(delta).sum())
    assert 0 <= found.risk <= found.opposed <= 1


def test_rows_beyond_those_of_the_delta_do_not_count():
    found, _ = figures(np.ones((2, 3)), np.zeros((4, 3)), np.concatenate([np.ones((2, 3)), np.full((2, 3), 9)]))
    assert (found.moved, found.cosine) == (pytest.approx(1), pytest.approx(1))


def test_layers_are_sums_and_the_worst_comes_first():
    rows = [
        figures([1, 1], [0, 0], [0.5, 0.5], "model.layers.0.a"),
        figures([1, -1], [0, 0], [-1, 1], "model.layers.1.a"),
        figures([2, 2], [0, 0], [2, 2], "model.layers.1.b"),
        figures([1, 1], [0, 0], [-0.25, 0], "norm"),
    ]
    found = summarise(rows)
    assert [row.layer for row in found.layers] == ["model.layers.1", "rest", "model.layers.0"]
    assert [row.tensor for row in found.tensors][:2] == ["model.layers.1.a", "norm"]
    one = found.layers[0]
    assert (one.tensors, one.changed, one.risk) == (2, 2, pytest.approx(2 / 6))
    assert one.moved == pytest.approx(1)
    assert found.risk == pytest.approx(2.25 / 10)
