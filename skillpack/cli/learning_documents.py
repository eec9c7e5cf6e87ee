"""The JSON that `learn` and `learn-stream` print, and what its keys mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.learning import LearnReport, Segment

_TRANSFER: Final = {
    "scores[][]": "row i, column j: score of task j after task i was learned, 0 to 1; null if not measured",
    "average": "mean of the last row; null without tasks",
    "backward_transfer": "mean change of earlier tasks' scores since they were learned; null with fewer than two tasks",
    "forward_transfer": "mean gain over the base on a task just before it is learned; null if there is none",
}

LEARNING_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "learn": {
        "tasks[]": "names of the tasks in the order in which they were learned",
        **_TRANSFER,
        "bytes[]": "bytes on disk of each task's skill",
        "base[]": "score of the base on each task; null if it does not do this kind of task",
        "tuned[]": "score of each fine-tune before it was packed",
        "skills[].name": "name of the task and its skill",
        "skills[].version": "of the skill on the branch",
        "skills[].digest": "its identity",
        "skills[].size": "bytes on disk of all that the digest covers",
        "skills[].share": "size in relation to the base's tensors",
        "skills[].measure": "exact, number, label or likelihood: what the score is",
        "skills[].samples": "held-out samples",
        "router": "method of the router; null without one",
        **{
            f"routed_{key}": f"{text}; with a router in the place of the task's name" for key, text in _TRANSFER.items()
        },
        "routing[]": "share of each task's held-out prompts that went to its own skill; none without a router",
        "resumed": "how many tasks were finished before",
        "written[]": "paths of the files with the report",
        "preferred[].name": "name of the skill that was composed by --prefer; none without",
        "preferred[].digest": "its identity",
        "preferred[].preferences[].skill": "address of a skill that it is made of",
        "preferred[].preferences[].weight": "its part, 0 to 1",
    },
    "learn-stream": {
        "segments[].name": "skill that was learned from batches in a row, in the order of the stream",
        "segments[].version": "of the skill on the branch, after these batches",
        "segments[].digest": "its identity",
        "segments[].start": "number of the first batch, from 0",
        "segments[].stop": "number behind the last batch",
        "segments[].returned": "whether the task was known from before",
        "segments[].losses[]": "of each batch, before anything was learned from it; nats per prediction",
    },
}
"""As `skillpack.cli.documents.KEYS`."""


def learn_document(report: LearnReport | None, preferred: list[dict[str, Any]]) -> dict[str, Any]:
    """What `learn` prints.

    Args:
        report: None if only preferences were given.
        preferred: what was composed.
    """
    from skillpack.learning.report import LearnReport, Transfer

    report = report or LearnReport((), Transfer((), None, None, None), None, (), None, ())
    return {
        **report.to_json(),
        "resumed": report.resumed,
        "written": [str(path) for path in report.written],
        "preferred": preferred,
    }


def stream_document(segments: Sequence[Segment]) -> dict[str, Any]:
    """What `learn-stream` prints."""
    return {"segments": [asdict(segment) for segment in segments]}


def preferred_document(name: str, digest: str, preferences: Mapping[str, float]) -> dict[str, Any]:
    """A skill that was composed by preferences."""
    parts = [{"skill": skill, "weight": weight} for skill, weight in preferences.items()]
    return {"name": name, "digest": digest, "preferences": parts}
