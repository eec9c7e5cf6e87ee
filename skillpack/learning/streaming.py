"""Learning from a stream of batches that nobody has divided into tasks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from skillpack.errors import DataError, UsageError
from skillpack.learning.shifts import LIMIT, RUN, WINDOW, ShiftDetector
from skillpack.learning.training import FineTune, Training
from skillpack.packing import pack
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from skillpack.progress import Progress
    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample

    Batch = Sequence[Sample]


@dataclass(frozen=True)
class Segment:
    """Batches in a row that belong to one task.

    Attributes:
        name: of the task's skill.
        digest: its identity after this segment.
        version: its number on the branch.
        start: number of the first batch, from 0.
        stop: number behind the last one.
        returned: the task was known from before, and its skill learned on.
        losses: of each batch, before anything was learned from it; nats.
    """

    name: str
    digest: str
    version: int | None
    start: int
    stop: int
    returned: bool
    losses: tuple[float, ...]


@dataclass
class _Expert:
    """A skill that is known: where its fine-tune lies, and the losses that it had in the end."""

    name: str
    folder: Path
    detector: ShiftDetector


@dataclass
class _Open:
    """The segment at hand."""

    name: str
    tuner: FineTune
    detector: ShiftDetector
    start: int
    returned: bool = False
    losses: list[float] = field(default_factory=list)


class Stream:
    """Learns from batches, and opens a new skill whenever the loss says that the task has changed.

    A batch is first only looked at; while it is suspicious nothing is learned from it, so that nothing of a new task
    gets into the skill of the one before. When the task has changed, the experts so far are asked first, as TAME does:
    if one has losses on the new batches as it had on its own, it learns on, as the next version of its skill. Otherwise
    a new one starts from the base. A skill is committed when its segment ends.
    """

    def __init__(
        self,
        base: str | Path,
        room: Path,
        training: Training,
        goal: dict[str, Any],
        name: str,
        *,
        detector: tuple[float, int, int] = (LIMIT, RUN, WINDOW),
        store: StoreLike,
        branch: str,
        author: str | None,
        progress: Progress,
    ) -> None:
        if training.method != "full":
            raise UsageError("a stream is learned with every weight, not with adapters", hint='Use Training("full").')
        self._base, self._room, self._training, self._goal = base, room, training, goal
        self._name, self._settings = check_skill_name(name), detector
        self._options: dict[str, Any] = {"store": store, "branch": branch, "author": author, "progress": progress}
        self._experts: list[_Expert] = []
        self._segments: list[Segment] = []

    def run(self, batches: Iterable[Batch]) -> tuple[Segment, ...]:
        """Learn from all batches.

        Raises:
            DataError: there is none, one has labels, or nothing can be learned from one.
        """
        now: _Open | None = None
        waiting: list[Batch] = []
        number = -1
        for number, batch in enumerate(batches):
            _check_unlabelled(batch, number)
            now = now or self._opened(None, number)
            loss = now.tuner.loss(batch)
            verdict = now.detector.see(float(loss.detach()))
            if verdict == "same" and not waiting:
                now.losses.append(now.tuner.step(loss))
                continue
            del loss
            waiting.append(batch)
            if verdict == "suspicious":
                continue
            if verdict == "new":
                start = number + 1 - len(waiting)
                self._close(now, start)
                now = self._opened(self._known(waiting), start)
            self._learn(now, waiting)
            waiting = []
        if now is None:
            raise DataError("there is no batch to learn from")
        self._learn(now, waiting)
        self._close(now, number + 1)
        return tuple(self._segments)

    def _opened(self, expert: _Expert | None, start: int) -> _Open:
        if expert is None:
            name = f"{self._name}-{len(self._experts) + 1}"
            return _Open(name, FineTune(self._base, None, self._training), ShiftDetector(*self._settings), start)
        tuner = FineTune(expert.folder, None, self._training)
        return _Open(expert.name, tuner, replace(expert.detector, suspicious=0), start, returned=True)

    def _learn(self, now: _Open, batches: Sequence[Batch]) -> None:
        for batch in batches:
            now.losses.append(now.tuner.step(now.tuner.loss(batch)))

    def _close(self, now: _Open, stop: int) -> None:
        """Commit what a segment has learned."""
        folder = self._room / f"{now.name}-{stop}"
        now.tuner.save(folder)
        message = f"Learn batches {now.start} to {stop - 1} of a stream"
        made = pack(self._base, folder, now.name, message=message, **self._goal, **self._options)
        self._experts = [each for each in self._experts if each.name != now.name]
        self._experts.append(_Expert(now.name, folder, now.detector))
        self._segments.append(
            Segment(now.name, made.digest, made.version, now.start, stop, now.returned, tuple(now.losses))
        )

    def _known(self, batches: Sequence[Batch]) -> _Expert | None:
        """The expert whose losses on batches are least, if they are as on its own."""
        found = []
        for expert in self._experts[:-1]:
            tuner = FineTune(expert.folder, None, self._training)
            with torch.no_grad():
                losses = [float(tuner.loss(batch)) for batch in batches]
            if expert.detector.fits(losses):
                found.append((sum(losses), expert.name, expert))
        return min(found)[2] if found else None


def _check_unlabelled(batch: Batch, number: int) -> None:
    if any(sample.label is not None for sample in batch):
        raise DataError(
            f"batch {number} of the stream has labels, and which classes there are is not known yet",
            hint="Give chats or plain texts, or name the tasks.",
        )
