"""How fast this machine is at the moment: limits of time hold on any, also a slow one with other work to do."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What `_work` takes where the stated limits hold as they are: one core of a desktop that is a few years old.
_SECONDS = 0.019


def paced(measure: Callable[[], float], tries: int = 5) -> float:
    """Return the least of some measured times, each by how slow the machine was just before.

    Args:
        measure: Does the work once and returns how long it took, in seconds.
        tries: How often.
    """
    return min(measure() / _slowness() for _ in range(tries))


def _slowness() -> float:
    """Return how many times slower than stated this machine is; 1 where it is faster."""
    return max(1.0, min(_work() for _ in range(3)) / _SECONDS)


def _work() -> float:
    start = time.perf_counter()
    text = json.dumps([{"number": number, "text": str(number) * 3} for number in range(4000)], indent=1)
    json.loads(text)
    return time.perf_counter() - start
