"""Figures of two deltas, against what their definitions give on whole matrices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.comparing import measures
from skillpack.comparing.changes import Change
from skillpack.comparing.measures import Sums, add_up, compare_changes, shared_energy


def product(seed, rows=20, columns=12, rank=3):
    random = np.random.default_rng(seed)
    return [random.normal(size=(size, rank)).astype(np.float32) for size in (rows, columns)]


def of_pair(first, second, rank=4):
    return compare_changes([first, second], rank)[0, 1].figures()


def dense(change):
    return change.rows(0, change.shape[0])


def test_a_case_by_hand():
    first = Change.of_dense(np.array([[1, -2, 0], [4, 1, 2]], np.float32))
    second = Change.of_dense(np.array([[3, 1, 5], [-1, 1, 2]], np.float32))
    found = of_pair(first, second)
    inner = 3 - 2 + 0 - 4 + 1 + 4
    assert found.cosine == pytest.approx(inner / math.sqrt(26 * 41))
    # Five weights change in both, two of them in opposite directions.
    assert found.conflict == pytest.approx(2 / 5)
    # The smaller changes: 1, 1, 1, 1, 2; those of the conflicts are the second and the third.
    assert found.weighted_conflict == pytest.approx(2 / 6)


def test_directions_by_hand():
    identity = np.eye(6, dtype=np.float32)
    first = Change.of_factors(identity[:, :2], identity[:, :2])
    second = Change.of_factors(identity[:, 1:3], identity[:, 3:5])
    found = of_pair(first, second, rank=2)
    assert found.left_overlap == pytest.approx(0.5)
    assert found.right_overlap == pytest.approx(0.0, abs=1e-12)
    assert found.chance_overlap == pytest.approx(2 / 6)
    assert found.cosine == pytest.approx(0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_same_and_the_opposite(sign):
    left, right = product(0)
    found = of_pair(Change.of_factors(left, right), Change.of_factors(sign * 2 * left, right))
    assert found.cosine == pytest.approx(sign)
    assert found.conflict == found.weighted_conflict == (0 if sign == 1 else 1)
    assert found.left_overlap == pytest.approx(1)
    assert found.right_overlap == pytest.approx(1)


def test_factors_and_what_they_multiply_to_are_the_same():
    changes = [Change.of_factors(*product(seed)) for seed in (1, 2)]
    whole = [Change.of_dense(dense(change)) for change in changes]
    found, expected = of_pair(*changes), of_pair(*whole)
    for name, value in vars(found).items():
        assert value == pytest.approx(getattr(expected, name), abs=1e-5), name
    assert changes[0].energy() == pytest.approx(whole[0].energy())


def test_directions_are_singular_vectors():
    change = Change.of_factors(*product(3, rank=5))
    left, _, right = np.linalg.svd(dense(change))
    for found in (change.directions(2), Change.of_dense(dense(change)).directions(2)):
        for mine, theirs in ((found.left, left[:, :2]), (found.right, right[:2].T)):
            assert np.abs(mine.T @ theirs) == pytest.approx(np.eye(2), abs=1e-4)


def test_a_matrix_has_no_more_directions_than_its_rank():
    change = Change.of_factors(*product(4, rank=3))
    assert change.directions(8).left.shape == (20, 3)
    assert Change.of_dense(dense(change)).directions(8).left.shape == (20, 3)
    assert Change.of_dense(np.zeros((4, 4), np.float32)).directions(8).left.shape == (4, 0)


def test_blocks_make_no_difference(monkeypatch):
    changes = [Change.of_factors(*product(seed, rows=37)) for seed in range(3)]
    whole = compare_changes([*changes, None], 4)
    monkeypatch.setattr(measures, "_BLOCK", 50)
    pieces = compare_changes([*changes, None], 4)
    assert pieces.keys() == whole.keys() == {(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)}
    for pair, sums in whole.items():
        for name, value in vars(sums).items():
            assert getattr(pieces[pair], name) == pytest.approx(value), name


def test_what_one_skill_alone_changes_counts_for_its_norm_only():
    one, other = (Change.of_dense(np.full((2, 2), value, np.float32)) for value in (1, 3))
    alone = compare_changes([one, None], 4)[0, 1]
    assert alone == Sums(first=4.0)
    both = compare_changes([one, other], 4)[0, 1]
    assert both.figures().cosine == pytest.approx(1)
    assert add_up([both, alone]).figures().cosine == pytest.approx(1 / math.sqrt(2))
    assert add_up([alone]).figures().cosine is None
    assert compare_changes([None, None], 4) == {}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_ranges_and_symmetry(seed, zeros):
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, 7, 5)).astype(np.float32) * (random.random((2, 7, 5)) >= zeros)
    one, other = Change.of_dense(first), Change.of_dense(second)
    found, back = of_pair(one, other), of_pair(other, one)
    for name, value in vars(found).items():
        assert (value is None) == (getattr(back, name) is None)
        if value is not None:
            assert value == pytest.approx(getattr(back, name), abs=1e-9)
            assert (-1 if name == "cosine" else -1e-9) <= value <= 1 + 1e-9
    both = (first != 0) & (second != 0)
    if both.any():
        assert found.conflict == pytest.approx((first * second < 0).sum() / both.sum())
        smaller = np.minimum(abs(first), abs(second))
        assert found.weighted_conflict == pytest.approx(smaller[first * second < 0].sum() / smaller.sum(), abs=1e-6)


def test_random_deltas_conflict_in_half_of_their_weights():
    random = np.random.default_rng(0)
    found = of_pair(*(Change.of_dense(random.normal(size=(400, 300)).astype(np.float32)) for _ in range(2)))
    assert abs(found.cosine) < 0.02
    assert found.conflict == pytest.approx(0.5, abs=0.01)
    assert found.weighted_conflict == pytest.approx(0.5, abs=0.01)
    assert found.left_overlap < 3 * found.chance_overlap


def test_shared_energy():
    assert shared_energy({"a": 2.0}, {"a": 0.1}) == pytest.approx(1)
    assert shared_energy({"a": 2.0, "b": 0.0}, {"b": 1.0, "a": 0.0}) == 0
    assert shared_energy({"a": 0.0}, {"a": 1.0}) == 0
