"""One model merged from the fine-tunes so far: TIES and PCB, on the fine-tunes themselves and not on packs of them.

The rules are those of `skillpack.composing.methods`, each with its paper's settings: TIES keeps 20 % and scales by 1
(Yadav et al., 2023), PCB keeps 20 % and scales by 1 (Du et al., 2024).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from benchmarks.baselines.protocol import apply
from benchmarks.continual_baselines.protocol import Opened, Result, row_of
from skillpack.checkpoint import open_checkpoint
from skillpack.composing.methods.pcb import Pcb
from skillpack.composing.methods.ties import Ties
from skillpack.composing.protocol import Deltas, Source, Surveying

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.continual_baselines.protocol import Cache, Row
    from benchmarks.continual_tasks import Course, Learned
    from skillpack.composing.protocol import Method
    from skillpack.tensors import Floats

_RULES: dict[str, Any] = {"TIES": Ties, "PCB": Pcb}


@dataclass(frozen=True)
class Merge:
    """Merging by a rule; see `Approach`. Language models only: classifiers have heads that cannot be merged."""

    rule: Literal["TIES", "PCB"]

    @property
    def name(self) -> str:
        """See `Approach`."""
        return f"{self.rule} merge"

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return asdict(self)

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """See `Approach`."""
        del room
        rows: list[Row] = []
        for step in range(len(course.tasks)):
            experts = [learned.expert for learned in course.tasks[: step + 1]]
            opened = Opened(lambda experts=experts: merged(course.base, experts, _RULES[self.rule]()))  # type: ignore[misc]

            def score_of(learned: Learned, step: int = step, opened: Opened = opened) -> float:
                return cache.score(f"step-{step}", learned, opened, course.base)

            rows.append(row_of(course, step, score_of))
        size = (course.base / "model.safetensors").stat().st_size
        return Result(rows, [size] * len(rows))


def merged(base: Path, experts: Sequence[Path], method: Method) -> Any:
    """The base with the merged deltas of experts, computing in fp32."""
    sources = tuple(Source(expert.name, expert.name) for expert in experts)
    weights = [1.0] * len(experts)
    while isinstance(method, Surveying) and (survey := method.survey(sources)) is not None:
        for name, _, deltas in _tensors(base, experts, sources):
            survey.observe(name, deltas, weights)
        method = survey.settled()
    return apply(
        base,
        {
            name: torch.from_numpy(values + method.merge(name, deltas, weights))
            for name, values, deltas in _tensors(base, experts, sources)
        },
    )


def _tensors(base: Path, experts: Sequence[Path], sources: tuple[Source, ...]) -> Iterator[tuple[str, Floats, Deltas]]:
    before, after = open_checkpoint(base), [open_checkpoint(expert) for expert in experts]
    for name in before.tensors:
        values = before.read(name).float32()
        yield name, values, Deltas(sources, tuple(expert.read(name).float32() - values for expert in after))
