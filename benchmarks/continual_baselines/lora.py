"""Sequential LoRA: one adapter beside the frozen base learns task after task.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022). The adapter is never merged; each task goes
on with the factors that the one before left, so that the model that forgets has few numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors.torch import load_file

from benchmarks.continual_baselines.protocol import Opened, Result, row_of
from benchmarks.continual_baselines.sequential import Sequential, rate
from skillpack.learning.training import FineTune, Training
from skillpack.live.models import open_model
from skillpack.live.whole import whole_folder

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.continual_baselines.protocol import Cache, Row
    from benchmarks.continual_tasks import Course, Learned

RATE = 1e-3
ADAPTER = "adapter_model.safetensors"


@dataclass
class SequentialLora(Sequential):
    """See the module; language models only.

    Attributes:
        rank: of the adapter.
    """

    name: ClassVar[str] = "sequential LoRA"
    rank: int = 16

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """See `Approach`."""
        rows: list[Row] = []
        sizes: list[int] = []
        for step, learned in enumerate(course.tasks):
            folder = room / f"step-{step}"
            if not folder.is_dir():
                train_adapter(self, course, learned, folder, room / f"step-{step - 1}" if step else None)
            opened = Opened(lambda folder=folder: open_adapter(folder, course.base))  # type: ignore[misc]

            def score_of(one: Learned, step: int = step, opened: Opened = opened) -> float:
                return cache.score(f"step-{step}", one, opened, course.base)

            rows.append(row_of(course, step, score_of))
            sizes.append((folder / ADAPTER).stat().st_size)
        return Result(rows, sizes)


def train_adapter(how: SequentialLora, course: Course, learned: Learned, folder: Path, before: Path | None) -> None:
    """Train an adapter on one task.

    Args:
        how: rank and share of the steps.
        course: the base.
        learned: the task.
        folder: to be made once all is done.
        before: adapter to go on with; None for a new one.
    """
    training: Training = replace(learned.training, method="lora", rank=how.rank, learning_rate=RATE)
    tuner = FineTune(course.base, None, training)
    if before is not None:
        import peft

        loaded: Any = peft.set_peft_model_state_dict(tuner.model, load_file(before / ADAPTER))
        if loaded.unexpected_keys:
            raise ValueError(f"{before} is an adapter of another kind: {loaded.unexpected_keys[:3]}")
    batches = how.batches(learned)
    for place, batch in enumerate(batches):
        tuner.step(tuner.loss(batch), rate(learned, place, len(batches)))
    part = folder.with_suffix(".part")
    tuner.save(part)
    part.rename(folder)


def open_adapter(folder: Path, base: Path) -> Any:
    """The base with an adapter merged in."""
    import tempfile
    from pathlib import Path as Folder

    room = Folder(tempfile.mkdtemp(prefix="skillpack-lora-"))
    # The weights stay mapped; the folder is gone when the process is.
    model = open_model(whole_folder(folder, base, room / "whole"))
    import shutil

    shutil.rmtree(room)
    return model
