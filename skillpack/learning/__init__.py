"""Continual learning: task after task becomes a skill of the same base, and none is forgotten."""

from __future__ import annotations

from skillpack.learning.learner import ContinualLearner, learn
from skillpack.learning.preferring import prefer
from skillpack.learning.report import LearnedTask, LearnReport, Transfer
from skillpack.learning.streaming import Segment, learn_stream
from skillpack.learning.tasks import Task, read_tasks
from skillpack.learning.training import Training

__all__ = [
    "ContinualLearner",
    "LearnReport",
    "LearnedTask",
    "Segment",
    "Task",
    "Training",
    "Transfer",
    "learn",
    "learn_stream",
    "prefer",
    "read_tasks",
]
