"""What every way to learn a sequence of tasks can do, and where its results are kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from skillpack.learning.scores import Outcome, measure_samples, score
from skillpack.live.models import open_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.continual_tasks import Course, Learned

Row = list[float | None]


class Approach(Protocol):
    """A way to learn tasks one after another.

    Attributes:
        name: what it is called in a table, and in the cache.
        settings: what decides its results beside the tasks; plain JSON values.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> dict[str, Any]: ...  # noqa: D102

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """Learn all tasks.

        Args:
            course: the tasks.
            room: folder of its own, kept from run to run; whatever is in it was finished.
            cache: results that are known.
        """
        ...


class Result:
    """What an approach has reached.

    Attributes:
        scores: row i, column j: score of task j after task i was learned; None where that is not measured.
        bytes: what all its models or parts take on disk after each task.
        routed: the same as `scores` where a router picks the model; None if the approach has one model.
    """

    def __init__(self, scores: list[Row], sizes: list[int], routed: list[Row] | None = None) -> None:
        self.scores, self.bytes, self.routed = scores, sizes, routed


class Cache:
    """Results by name in one file each, so that a run can be interrupted at any time and goes on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """What is known under a name, or what is computed now; plain JSON values."""
        file = self._folder / f"{name}.json"
        if not file.is_file():
            value = compute()
            part = file.with_suffix(".part")
            part.write_text(json.dumps(value))
            part.rename(file)
        return json.loads(file.read_text())

    def outcomes(self, name: str, learned: Learned, model: Callable[[], Any], tokens: Path) -> list[Outcome]:
        """What a model does with the held-out samples of a task.

        Args:
            name: of the model.
            learned: the task.
            model: opens it, in evaluation mode.
            tokens: folder with its tokenizer.
        """
        found = self.get(f"{name}-on-{learned.task.name}", lambda: measured(model(), learned, tokens))
        return [Outcome(*each) for each in found]

    def score(self, name: str, learned: Learned, model: Callable[[], Any], tokens: Path) -> float:
        """The score of that."""
        return score(self.outcomes(name, learned, model, tokens), learned.task.measure)


def measured(model: Any, learned: Learned, tokens: Path) -> list[Outcome]:
    """What a model does with the held-out samples of a task; see `Cache.outcomes`."""
    return measure_samples(model, open_tokenizer(tokens), learned.task.measured, learned.task.measure)


class Opened:
    """A model that is opened when it is first needed, and once."""

    def __init__(self, open_it: Callable[[], Any]) -> None:
        self._open, self._model = open_it, None

    def __call__(self) -> Any:
        """The model."""
        if self._model is None:
            self._model = self._open()
        return self._model


def row_of(course: Course, step: int, score_of: Callable[[Learned], float]) -> Row:
    """The row of one model after a step: all tasks up to it, and the next one for the forward transfer."""
    tasks: Sequence[Learned] = course.tasks
    return [score_of(one) if place <= step + 1 else None for place, one in enumerate(tasks)]
