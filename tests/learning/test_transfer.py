"""The figures of Lopez-Paz & Ranzato (2017), worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillpack.learning.transfer import average, backward_transfer, forward_transfer

# Three tasks. R[2] = (0.6, 0.5, 0.9): ACC = 2.0 / 3. BWT = ((0.6 - 0.8) + (0.5 - 0.7)) / 2 = -0.2.
# FWT = ((R[0][1] - b[1]) + (R[1][2] - b[2])) / 2 = ((0.3 - 0.1) + (0.4 - 0.2)) / 2 = 0.2.
SCORES = [[0.8, 0.3, 0.1], [0.7, 0.7, 0.4], [0.6, 0.5, 0.9]]
BASE = [0.2, 0.1, 0.2]


def test_three_tasks():
    assert average(SCORES) == pytest.approx(2.0 / 3)
    assert backward_transfer(SCORES) == pytest.approx(-0.2)
    assert forward_transfer(SCORES, BASE) == pytest.approx(0.2)


def test_what_cannot_be_measured_does_not_count():
    assert forward_transfer([[0.8, None, 0.1], *SCORES[1:]], BASE) == pytest.approx(0.2)
    assert forward_transfer(SCORES, [None, None, None]) is None


def test_one_task_or_none_has_no_transfer():
    assert (average([]), backward_transfer([]), forward_transfer([], [])) == (None, None, None)
    assert (average([[0.5]]), backward_transfer([[0.5]]), forward_transfer([[0.5]], [0.1])) == (0.5, None, None)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_skills_of_their_own_forget_nothing(right):
    own = [count / 100 for count in right]
    scores = [[*own[: row + 1], *([0.25] * (len(own) - row - 1))] for row in range(len(own))]
    assert backward_transfer(scores) == 0
    assert forward_transfer(scores, [0.25] * len(own)) == 0
