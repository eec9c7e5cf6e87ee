"""Noticing in a stream of losses that the task has changed.

The idea is that of TAME (Zhu et al., "TAME: Task Agnostic Continual Learning using Multiple Experts", 2022): a new task
shows in a statistically significant rise of the loss. The test is a control chart: the last losses of the task at hand
have a mean m and a sample standard deviation s, and a loss above m + LIMIT * s is suspicious. One such batch may be a
hard one; `RUN` of them in a row are a new task. Were losses independent and normal, and m and s known, a batch would be
suspicious once in 30,000 times. They are estimated from `WINDOW` losses, and come out too small now and then, which is
why the limit is not TAME's 3. While a task is being learned its losses fall, so that m and s come out too large rather
than too small, and the test errs towards going on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Final, Literal

LIMIT: Final = 4.0
"""Standard deviations above the mean from which on a loss is suspicious."""
RUN: Final = 3
"""Suspicious batches in a row that make a new task."""
WINDOW: Final = 30
"""Losses that mean and standard deviation are of."""
_LEAST: Final = 5
"""Losses without which nothing is suspicious."""
_NOISE: Final = 0.05
"""The standard deviation is taken to be no smaller than this share of the mean, so that what is known by heart does not
make every other batch suspicious."""
_FLOOR: Final = 1e-3
"""Nor smaller than this, in nats."""

Verdict = Literal["same", "suspicious", "new"]


@dataclass
class ShiftDetector:
    """Watches the losses of one task.

    Attributes:
        limit: see `LIMIT`.
        run: see `RUN`.
        window: see `WINDOW`.
        losses: the latest ones that belong to the task.
        suspicious: how many suspicious ones have come in a row.
    """

    limit: float = LIMIT
    run: int = RUN
    window: int = WINDOW
    losses: deque[float] = field(default_factory=deque)
    suspicious: int = 0

    @property
    def threshold(self) -> float | None:
        """The loss, in nats, above which a batch is suspicious; None while too little is known.

        >>> ShiftDetector(losses=deque([2.0] * 5)).threshold
        2.4
        """
        if len(self.losses) < _LEAST:
            return None
        mean = fmean(self.losses)
        return mean + self.limit * max(stdev(self.losses), _NOISE * mean, _FLOOR)

    def see(self, loss: float) -> Verdict:
        """Judge a batch by its loss before anything was learned from it, nats.

        Returns:
            "same": it belongs to the task. "suspicious": wait for the next. "new": it and the suspicious ones just
            before it belong to another task. After "same", those before it belong to this one too.
        """
        threshold = self.threshold
        if threshold is not None and loss > threshold:
            self.suspicious += 1
            return "new" if self.suspicious >= self.run else "suspicious"
        self.suspicious = 0
        self.accept(loss)
        return "same"

    def accept(self, loss: float) -> None:
        """Count a loss among those of the task."""
        self.losses.append(loss)
        while len(self.losses) > self.window:
            self.losses.popleft()

    def fits(self, losses: list[float]) -> bool:
        """Whether batches with these losses could belong to the task, by their mean."""
        threshold = self.threshold
        return threshold is not None and fmean(losses) <= threshold
