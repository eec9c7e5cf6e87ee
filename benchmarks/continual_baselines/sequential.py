"""One model learns task after task: nothing is done about forgetting, or what a subclass does.

Sequential fine-tuning is the baseline that all work on continual learning starts from. Every task is trained as its
expert is: the same samples in the same order, steps, rates and seed (of dropout as well); only the start is the model
that the task before left, so that the first one's model is its expert. Classifiers keep a head of their own for each
task, and are told which to use.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file

from benchmarks.continual_baselines.protocol import Opened, Result, measured
from skillpack.learning.scores import score
from skillpack.learning.training import FineTune
from skillpack.live.models import open_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.continual_baselines.protocol import Cache, Row
    from benchmarks.continual_tasks import Course, Learned
    from skillpack.texts import Sample

_HEAD = "head.safetensors"
_ENCODER = "encoder"
"""A classifier's folder without its head, which the next task has no use for."""


@dataclass
class Sequential:
    """Full fine-tuning of one model, task after task; see `Approach`.

    Attributes:
        share: of the steps that each expert was trained for; less than 1 only to try things out.
    """

    name: ClassVar[str] = "sequential fine-tuning"
    share: float = 1.0
    _seen: list[Learned] = field(default_factory=list, init=False, repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return {key: value for key, value in asdict(self).items() if not key.startswith("_")}

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """See `Approach`."""
        rows: list[Row] = []
        sizes: list[int] = []
        self._seen = []
        for step, learned in enumerate(course.tasks):
            folder = room / f"step-{step}"

            def trained(step: int = step, folder: Path = folder, learned: Learned = learned) -> dict[str, Any]:
                before = course.base if step == 0 else room / f"step-{step - 1}"
                part = folder.with_suffix(".part")
                shutil.rmtree(part, ignore_errors=True)
                self._train(course, before, learned, part)
                scores = _measure(course, step, room, part)
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
                size = (folder / "model.safetensors").stat().st_size
                return {"row": scores, "bytes": size}

            found = cache.get(f"step-{step}", trained)
            rows.append(found["row"])
            sizes.append(found["bytes"])
            self._seen.append(learned)
            if step > 0 and not course.classes:
                shutil.rmtree(room / f"step-{step - 1}", ignore_errors=True)
        return Result(rows, sizes)

    def _train(self, course: Course, before: Path, learned: Learned, folder: Path) -> None:
        labels = [one.label for one in learned.task.training if one.label is not None] if course.classes else None
        is_expert = not self._seen and self.share == 1
        start = before / _ENCODER if course.classes and self._seen else before
        tuner = FineTune(learned.expert if is_expert else start, labels, learned.training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(learned.training.seed)
            for place, batch in enumerate([] if is_expert else self.batches(learned)):
                tuner.step(self.loss(tuner, batch, place), rate(learned, place, self._steps(learned)))
        self.end(tuner, course, learned, folder)
        tuner.save(folder)
        if course.classes:
            _keep_head(tuner.model, folder)
            tuner.model.base_model.save_pretrained(folder / _ENCODER)
            tuner.tokenizer.save_pretrained(folder / _ENCODER)

    def _steps(self, learned: Learned) -> int:
        assert learned.training.steps is not None
        return max(1, round(self.share * learned.training.steps))

    def batches(self, learned: Learned) -> Sequence[Sequence[Sample]]:
        """The expert's batches."""
        size = learned.training.batch
        return [learned.seen[place * size : (place + 1) * size] for place in range(self._steps(learned))]

    def loss(self, tuner: FineTune, batch: Sequence[Sample], place: int) -> torch.Tensor:
        """What is minimised."""
        del place
        return tuner.loss(batch)

    def end(self, tuner: FineTune, course: Course, learned: Learned, folder: Path) -> None:
        """Note something about the task that was learned."""


def rate(learned: Learned, place: int, steps: int) -> float:
    """Share of the learning rate at a step, as the experts have it: ten steps up, then down to zero unless it stays."""
    warm_up = min(10, steps)
    left = 1.0 if learned.constant or steps <= warm_up else (steps - place) / (steps - warm_up)
    return min((place + 1) / warm_up, left)


def _measure(course: Course, step: int, room: Path, folder: Path) -> Row:
    """The row of a step; a classifier has no head for a task that is still to come."""
    opened = Opened(lambda: open_model(folder))
    row: Row = []
    for place, learned in enumerate(course.tasks):
        if place > step + (not course.classes):
            row.append(None)
            continue
        model = _with_head(folder, room / f"step-{place}") if course.classes and place < step else opened()
        row.append(score(measured(model, learned, course.base), learned.task.measure))
    return row


def _keep_head(model: Any, folder: Path) -> None:
    prefix = f"{model.base_model_prefix}."
    head = {name: value.contiguous() for name, value in model.state_dict().items() if not name.startswith(prefix)}
    save_file(head, folder / _HEAD)


def _with_head(encoder: Path, head: Path) -> Any:
    """The classifier of an earlier task with the encoder of a later one."""
    model: Any = open_model(head)
    newer: Any = open_model(encoder)
    getattr(model, model.base_model_prefix).load_state_dict(getattr(newer, model.base_model_prefix).state_dict())
    model.load_state_dict(load_file(head / _HEAD), strict=False)
    return model
