"""Learning from a stream of batches that nobody has divided into tasks."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.errors import CheckpointError, DataError, UnsupportedModelError, UsageError
from skillpack.learning.goals import pack_goal
from skillpack.learning.routing import asked
from skillpack.learning.shifts import LIMIT, RUN, WINDOW, ShiftDetector
from skillpack.learning.training import FineTune, Training, text_bytes
from skillpack.packing import pack
from skillpack.progress import Progress, Stage, silent
from skillpack.routing.adding import open_base
from skillpack.routing.examples import PROBE
from skillpack.routing.space import FEWEST
from skillpack.texts import read_samples
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample

    Batch = Sequence[Sample]

SHOWN: Final = 32
"""Samples of a skill that a router is shown, the last ones."""


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


def learn_stream(
    data: str | Path | Iterable[Sample],
    base: str | Path,
    name: str = "task",
    *,
    training: Training | None = None,
    size: int | None = None,
    share: float | None = None,
    quality: float | None = None,
    limit: float = LIMIT,
    run: int = RUN,
    window: int = WINDOW,
    store: StoreLike = None,
    branch: str = "main",
    author: str | None = None,
    progress: Progress = silent,
) -> tuple[Segment, ...]:
    """Learn from samples that nobody has divided into tasks; each task that is noticed becomes a skill.

    What is noticed, and how, is in `skillpack.learning.shifts`. Skills are ``name-1``, ``name-2`` and so on; they are
    in the library as soon as their segment ends. They are not measured. A router is shown the last 32 prompts of each,
    without their answers, and texts as they are; nothing if there are fewer than 4, or if the base gives no features
    (see `skillpack.add_examples`).

    Args:
        data: chats or texts in the order in which they come: a source for `skillpack.texts.read_samples`, or samples.
        base: model folder or Hub id; it is only read.
        name: of the skills.
        training: batches, rate, tokens and device; each batch is one step, at a rate that stays.
        size: bytes that a skill may take.
        share: the same in relation to the base's tensors; 0.02 if none of the three is given.
        quality: as for `skillpack.pack`.
        limit: standard deviations above the mean from which on a batch's loss is suspicious.
        run: suspicious batches in a row that make a new task.
        window: losses that mean and standard deviation are of.
        store: where skills go; by default the user's own.
        branch: branch of the library.
        author: who, for the history; by default the user's login.
        progress: called during the work.

    Returns:
        What was learned, in the order of the stream.

    Raises:
        CheckpointError: the base cannot be opened.
        DataError: there is no sample, one has a label, or nothing can be learned from a batch.
        UsageError: the training is not "full", or more than one size is given.
    """
    training = training or Training()
    goal = pack_goal(base, size, share, quality)
    samples = read_samples(data) if isinstance(data, str | Path) else data
    total = sum(map(text_bytes, samples)) if isinstance(samples, Sequence) else 0
    with tempfile.TemporaryDirectory(prefix="skillpack-stream-") as room:
        stream = _Stream(
            base,
            Path(room),
            training,
            goal,
            name,
            detector=(limit, run, window),
            stage=Stage(progress, "learning from the stream", total),
            options={"store": store, "branch": branch, "author": author, "progress": progress},
        )
        return stream.run(_batches(samples, training.batch))


@dataclass
class _Expert:
    """A skill that is known: where its fine-tune lies, the losses that it had in the end, and what it is shown by."""

    name: str
    folder: Path
    detector: ShiftDetector
    shown: deque[Sample]


@dataclass
class _Open:
    """The segment at hand."""

    name: str
    tuner: FineTune
    detector: ShiftDetector
    start: int
    returned: bool = False
    losses: list[float] = field(default_factory=list)
    shown: deque[Sample] = field(default_factory=lambda: deque(maxlen=SHOWN))

    def learn(self, batch: Batch, loss: torch.Tensor) -> None:
        """Learn from a batch, given its loss."""
        self.losses.append(self.tuner.step(loss))
        self.shown.extend(_prompts(batch))


class _Stream:
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
        detector: tuple[float, int, int],
        stage: Stage,
        options: dict[str, Any],
    ) -> None:
        if training.method != "full":
            raise UsageError("a stream is learned with every weight, not with adapters", hint='Use Training("full").')
        self._base, self._room, self._training, self._goal = base, room, training, goal
        self._name, self._settings, self._stage = check_skill_name(name), detector, stage
        self._options = options
        self._experts: list[_Expert] = []
        self._segments: list[Segment] = []

    def run(self, batches: Iterable[Batch]) -> tuple[Segment, ...]:
        """Learn from all batches."""
        now: _Open | None = None
        waiting: list[Batch] = []
        number = -1
        for number, batch in enumerate(batches):
            _check_unlabelled(batch, number)
            now = now or self._opened(None, number)
            self._stage.advance(sum(map(text_bytes, batch)))
            loss = now.tuner.loss(batch)
            verdict = now.detector.see(float(loss.detach()))
            if verdict == "same" and not waiting:
                now.learn(batch, loss)
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
            raise DataError("there is no text to learn from")
        self._learn(now, waiting)
        self._close(now, number + 1)
        return tuple(self._segments)

    def _opened(self, expert: _Expert | None, start: int) -> _Open:
        if expert is None:
            name = f"{self._name}-{len(self._experts) + 1}"
            return _Open(name, FineTune(self._base, None, self._training), ShiftDetector(*self._settings), start)
        tuner = FineTune(expert.folder, None, self._training)
        detector = replace(expert.detector, suspicious=0)
        return _Open(expert.name, tuner, detector, start, returned=True, shown=expert.shown)

    def _learn(self, now: _Open, batches: Sequence[Batch]) -> None:
        for batch in batches:
            now.learn(batch, now.tuner.loss(batch))

    def _close(self, now: _Open, stop: int) -> None:
        """Commit what a segment has learned."""
        folder = self._room / f"{now.name}-{stop}"
        now.tuner.save(folder)
        message = f"Learn batches {now.start} to {stop - 1} of a stream"
        examples = list(now.shown) if len(now.shown) >= FEWEST and self._has_features else None
        made = pack(self._base, folder, now.name, message=message, examples=examples, **self._goal, **self._options)
        self._experts = [each for each in self._experts if each.name != now.name]
        self._experts.append(_Expert(now.name, folder, now.detector, now.shown))
        self._segments.append(
            Segment(now.name, made.digest, made.version, now.start, stop, now.returned, tuple(now.losses))
        )

    @cached_property
    def _has_features(self) -> bool:
        """Whether the base gives features of prompts; without them skills are learned, and not shown to routers."""
        try:
            base = open_base(self._base, None, self._options["store"], self._options["branch"])
            base.features([base.read(PROBE)])
        except (CheckpointError, DataError, UnsupportedModelError):
            return False
        return True

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


def _batches(samples: Iterable[Sample], size: int) -> Iterator[Batch]:
    """Samples in their order, `size` at a time; the last batch may be smaller."""
    rest = iter(samples)
    while batch := list(islice(rest, size)):
        yield batch


def _prompts(batch: Batch) -> list[Sample]:
    """What a router can be shown of samples: chats up to their last answer, and texts as they are."""
    found = map(asked, batch)
    return [sample for sample in found if text_bytes(sample) and (sample.is_prompt or not sample.messages)]


def _check_unlabelled(batch: Batch, number: int) -> None:
    if any(sample.label is not None for sample in batch):
        raise DataError(
            f"batch {number} of the stream has labels, and which classes there are is not known yet",
            hint="Give chats or plain texts, or name the tasks.",
        )
