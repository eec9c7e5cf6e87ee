"""How often `skillpack learn-stream` takes noise for a new task, and how soon it notices a real one: simulated losses.

The losses of a task fall from 3.3 nats to 0.3, as 0.3 + 3 x 0.97^n after n batches. False alarms: runs of one task
alone, with normal noise (standard deviation 0.1 nats) or with skewed noise (the loss times exp(0.5 g), g normal).
Delays: after 150 batches the loss rises by some standard deviations of normal noise, and falls again by 3 % with every
batch that is learned from, which suspicious ones are not; a rise that has fallen off before three batches in a row were
suspicious is missed. Takes some minutes of one core.

    python -m benchmarks.shifts
"""

from __future__ import annotations

import math
from functools import partial
from statistics import median_low
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.results import save
from skillpack.learning.shifts import LIMIT, RUN, WINDOW, ShiftDetector

if TYPE_CHECKING:
    from collections.abc import Callable

    Noise = Callable[[np.random.Generator, float], float]

RUNS: Final = 300
BATCHES: Final = 1000
"""Of a run of one task."""
BEFORE: Final = 150
"""Batches of the first task before the loss rises."""
AFTER: Final = 200
"""Batches of the second one."""
SIGMA: Final = 0.1
"""Standard deviation of normal noise, nats."""
SKEW: Final = 0.5
"""Standard deviation of the logarithm of skewed noise."""
RISES: Final = (3, 4, 5, 6, 8, 10)
"""In standard deviations of the noise."""
_FALL: Final = 0.97


def normal(draw: np.random.Generator, loss: float) -> float:
    """The loss with noise that is added."""
    return loss + draw.normal(0, SIGMA)


def skewed(draw: np.random.Generator, loss: float) -> float:
    """The loss with noise that it is multiplied with."""
    return loss * math.exp(draw.normal(0, SKEW))


def main() -> None:
    """Simulate, and save."""
    figures = {
        "detector": {"limit": LIMIT, "run": RUN, "window": WINDOW},
        "false_alarms": {
            "runs": RUNS,
            "batches": BATCHES,
            "alarms": {noise.__name__: _count(partial(false_alarm, noise)) for noise in (normal, skewed)},
        },
        "rises": {"runs": RUNS, "deviations": [_noticed(rise) for rise in RISES]},
    }
    save("shifts", figures)


def false_alarm(noise: Noise, seed: int) -> bool:
    """Whether a new task is noticed in a run that has only one."""
    draw, detector = np.random.default_rng(seed), ShiftDetector()
    return any(detector.see(noise(draw, _level(batch))) == "new" for batch in range(BATCHES))


def delay(rise: float, seed: int) -> int | None:
    """Batches of the new task until it is noticed, the last one counted; None if it is missed.

    Args:
        rise: of the loss, in standard deviations of the noise.
        seed: of the noise.
    """
    draw, detector = np.random.default_rng(seed), ShiftDetector()
    for batch in range(BEFORE):
        detector.see(normal(draw, _level(batch)))
    # What was suspicious when the loss rose belongs to the first task.
    detector.suspicious = learned = 0
    for batch in range(AFTER):
        more = rise * SIGMA * _FALL**learned
        verdict = detector.see(normal(draw, _level(BEFORE) + more))
        if verdict == "new":
            return batch + 1
        if verdict == "same":
            learned = batch + 1
    return None


def _level(batch: int) -> float:
    """The loss of a task after so many batches, nats, without noise."""
    return 0.3 + 3 * _FALL**batch


def _count(happens: Callable[[int], bool]) -> int:
    return sum(happens(seed) for seed in range(RUNS))


def _noticed(rise: float) -> dict[str, Any]:
    found = [batches for seed in range(RUNS) if (batches := delay(rise, seed)) is not None]
    return {
        "rise": rise,
        "noticed": len(found),
        "median_batches": median_low(found) if found else None,
        "most_batches": max(found, default=None),
    }


if __name__ == "__main__":
    main()
