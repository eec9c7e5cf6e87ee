"""What a learner has learned so far, and the files that say so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from skillpack.learning.transfer import average, backward_transfer, forward_transfer
from skillpack_store import disk

if TYPE_CHECKING:
    from pathlib import Path

Scores = tuple[tuple[float | None, ...], ...]
"""Row i, column j: score of task j after task i was learned; None where it was not or cannot be measured."""

NAMES: Final = ("learn.json", "learn.png", "learn.svg")


@dataclass(frozen=True)
class LearnedTask:
    """A task that was learned.

    Attributes:
        name: of the task and its skill.
        version: of the skill on the branch.
        digest: its identity.
        size: bytes on disk of the skill.
        share: `size` in relation to the base's tensors.
        measure: name of the score.
        samples: held-out samples that it was measured on.
        base: score of the base; None if the base cannot do the task.
        tuned: score of the fine-tune before it was packed.
        key: digest of the task and of how it was learned.
    """

    name: str
    version: int | None
    digest: str
    size: int
    share: float
    measure: str
    samples: int
    base: float | None
    tuned: float
    key: str


@dataclass(frozen=True)
class Transfer:
    """A matrix of scores and what it comes to; see `skillpack.learning.transfer`.

    Attributes:
        scores: the matrix.
        average: ACC.
        backward_transfer: BWT; below zero is forgetting.
        forward_transfer: FWT.
    """

    scores: Scores
    average: float | None
    backward_transfer: float | None
    forward_transfer: float | None

    @classmethod
    def of(cls, scores: Scores, base: tuple[float | None, ...]) -> Transfer:
        """From a matrix and the scores of the base."""
        return cls(scores, average(scores), backward_transfer(scores), forward_transfer(scores, base))


@dataclass(frozen=True)
class LearnReport:
    """What was learned in a sequence of tasks.

    Attributes:
        tasks: in the order in which they were learned.
        named: where each prompt is answered with the skill of its task.
        routed: where a router chooses skills and is not told the task; None without a router.
        routing: task by task, share of its held-out prompts that went to its own skill after the last task.
        router: method of the router; None without one.
        written: files with the report.
        resumed: how many tasks were finished before this run.
    """

    tasks: tuple[LearnedTask, ...]
    named: Transfer
    routed: Transfer | None
    routing: tuple[float, ...]
    router: str | None
    written: tuple[Path, ...]
    resumed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As ``learn.json`` has it; scores, average and transfer are those with tasks named, unless it says routed."""
        routed = self.routed or Transfer((), None, None, None)
        return {
            "tasks": [task.name for task in self.tasks],
            **_transfer(self.named),
            "bytes": [task.size for task in self.tasks],
            "base": [task.base for task in self.tasks],
            "tuned": [task.tuned for task in self.tasks],
            "skills": [
                {key: value for key, value in asdict(task).items() if key not in {"base", "tuned", "key"}}
                for task in self.tasks
            ],
            "router": self.router,
            **{f"routed_{key}": value for key, value in _transfer(routed).items()},
            "routing": list(self.routing),
        }


def _transfer(transfer: Transfer) -> dict[str, Any]:
    return {**asdict(transfer), "scores": [list(row) for row in transfer.scores]}


def write_report(report: LearnReport, *, plot: bool) -> None:
    """Write ``learn.json`` and the pictures that the report names."""
    for path in report.written:
        if path.suffix == ".json":
            disk.replace(path, [(json.dumps(report.to_json(), indent=2) + "\n").encode()])
        elif plot and report.tasks:
            from skillpack.learning.drawing import drawn

            disk.replace(path, [drawn(report, path.suffix.removeprefix("."))])
