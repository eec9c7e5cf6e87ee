"""The router of a learner: it gets to know each skill by examples of its task."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import skillpack
from skillpack.live.models import open_model, open_tokenizer
from skillpack.skill import open_skill

if TYPE_CHECKING:
    from pathlib import Path

    from skillpack.learning.tasks import Task
    from skillpack.skill import Skill
    from skillpack.texts import Sample
    from skillpack_store import Repository


class Routing:
    """A router over the skills that a learner has learned.

    Args:
        base: folder or Hub id of the base.
        method: of `skillpack.open_router`.
        repository: where the skills are.
    """

    def __init__(self, base: str | Path, method: str, repository: Repository) -> None:
        self._model, self._tokenizer = open_model(base), open_tokenizer(base)
        self._repository, self._method = repository, method
        self._router: Any = skillpack.open_router(self._model, self._tokenizer, (), method=method, store=repository)
        self._known: set[str] = set()

    def add(self, skill: Skill) -> None:
        """Let the router choose a skill that has its examples."""
        if skill.digest not in self._known:
            self._router.add(skill)
            self._known.add(skill.digest)

    def teach(self, skill: Skill, task: Task, branch: str) -> None:
        """Attach examples of a task to its skill, and let the router choose it.

        Args:
            skill: of the task.
            task: what it shows are the examples.
            branch: a branch that has the skill.
        """
        prompts = [asked(sample) for sample in task.shown]
        address = f"{skill.name}@{skill.digest}"
        skillpack.add_examples(
            address,
            prompts,
            self._model,
            tokenizer=self._tokenizer,
            refined=self._method == "self-refined",
            store=self._repository,
            branch=branch,
        )
        self.add(skill)

    def choices(self, task: Task) -> list[tuple[Skill, Repository] | None]:
        """For each held-out prompt of a task the skill that the router puts first; None for the base."""
        routes = self._router.route([asked(sample) for sample in task.measured])
        opened: dict[str, tuple[Skill, Repository]] = {}
        found: list[tuple[Skill, Repository] | None] = []
        for route in routes:
            best = route.choices[0] if route.choices else None
            if best is not None and best.digest not in opened:
                opened[best.digest] = (open_skill(self._repository, best.digest, best.name), self._repository)
            found.append(None if best is None else opened[best.digest])
        return found


def asked(sample: Sample) -> Sample:
    """A sample without its answer and its label, which a router must not see."""
    turns = sample.messages
    answered = bool(turns) and turns[-1]["role"] == "assistant"
    return replace(sample, messages=turns[:-1] if answered else turns, label=None)
