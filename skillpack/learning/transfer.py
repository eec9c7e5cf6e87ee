"""What a sequence of tasks did to one another: average, backward and forward transfer of a matrix of scores.

The definitions are those of Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning" (NIPS 2017), with
R[i][j] the score of task j after task i was learned and b[j] the score of task j before anything was learned. There, b
is that of a network with random weights; here it is that of the base, from which every task starts.
"""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = Sequence[float | None]


def average(scores: Sequence[Row]) -> float | None:
    """Mean score over all tasks after the last one: ACC = mean of R[T][j] over j; None without tasks.

    >>> average([[0.5, 0.0], [0.25, 0.75]])
    0.5
    """
    return _mean(scores[-1][: len(scores)]) if scores else None


def backward_transfer(scores: Sequence[Row]) -> float | None:
    """How much learning later tasks changed earlier ones: BWT = mean of R[T][j] - R[j][j] over j < T.

    Below zero is forgetting. None with fewer than two tasks.

    >>> backward_transfer([[0.5, 0.0], [0.25, 0.75]])
    -0.25
    """
    last = len(scores) - 1
    return _mean([_difference(scores[last][task], scores[task][task]) for task in range(max(0, last))])


def forward_transfer(scores: Sequence[Row], base: Row) -> float | None:
    """How much earlier tasks helped with a task that is still to be learned: FWT = mean of R[j-1][j] - b[j] over j > 1.

    Tasks that the base cannot be measured on, such as those that need a new head, do not count. None if none counts.

    >>> forward_transfer([[0.5, 0.125], [0.25, 0.75]], [0.0, 0.0])
    0.125
    """
    return _mean([_difference(scores[task - 1][task], base[task]) for task in range(1, len(scores))])


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _mean(values: Row) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
