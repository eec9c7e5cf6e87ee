"""A router of one method: keeps the skills of a library that it chooses from, and makes choices of scores."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack.errors import NotFoundError, UsageError, listing
from skillpack.grafting.addresses import Shelf
from skillpack.routing.examples import find_examples
from skillpack.routing.protocol import Route, Scored
from skillpack.skill import Skill
from skillpack.summaries import open_existing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.routing.examples import Examples
    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Method, Threshold, Tokens
    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample


@dataclass(frozen=True)
class _Known:
    """A skill that is a choice: its digest, and the score that it needs."""

    digest: str
    threshold: float


class SkillRouter:
    """See `skillpack.routing.protocol.Router`; made by `skillpack.open_router`. Calls from several threads take turns.

    Args:
        base: whose prompts are routed.
        method: scores them.
        store: where skills and their examples are.
        branch: of the library.
        top_k: most skills for a prompt.
        threshold: least score of a skill that is chosen; "auto" is what the method found for each.

    Attributes:
        base: as it was given.
        left_out: skills of the library that are no choice, by name, with the reason.
    """

    def __init__(
        self,
        base: Base,
        method: Method,
        *,
        store: StoreLike,
        branch: str,
        top_k: int = 1,
        threshold: Threshold = "auto",
    ) -> None:
        check_limits(top_k, threshold)
        self.base = base
        self.left_out: dict[str, str] = {}
        self._method = method
        self._shelf = Shelf(store, branch)
        self._store = store
        self._top_k = top_k
        self._threshold = threshold
        self._known: dict[str, _Known] = {}
        self._lock = threading.RLock()

    @property
    def skills(self) -> tuple[str, ...]:
        """Names of the skills that it knows, sorted."""
        return tuple(sorted(self._known))

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the skills that it knows, by name."""
        return {name: known.digest for name, known in sorted(self._known.items())}

    @property
    def thresholds(self) -> dict[str, float]:
        """Least score of each skill, by name."""
        return {
            name: known.threshold if self._threshold == "auto" else float(self._threshold)
            for name, known in sorted(self._known.items())
        }

    def add(self, skill: Skill | str) -> None:
        """Make a skill a choice; another version of one that is known takes its place.

        Raises:
            see `skillpack.routing.protocol.Router`.
        """
        with self._lock:
            opened = skill if isinstance(skill, Skill) else self._open(skill)
            present = self._known.get(opened.name)
            if present is not None and present.digest == opened.digest:
                return
            twin = next((name for name, known in self._known.items() if known.digest == opened.digest), None)
            if twin is not None:
                raise UsageError(f"{opened.name} is the same skill as {twin}", hint="Name each skill once.")
            threshold = self._method.add(opened, self._examples(opened) if self._method.needs_examples else None)
            self._known[opened.name] = _Known(opened.digest, threshold)
            self.left_out.pop(opened.name, None)
            if present is not None:
                self._method.remove(present.digest)

    def remove(self, name: str) -> None:
        """Forget a skill.

        Raises:
            NotFoundError: it is not known.
        """
        with self._lock:
            if name not in self._known:
                known = f"There are: {listing(self.skills)}." if self._known else "There are none."
                raise NotFoundError(f"The router does not know {name}", hint=known)
            self._method.remove(self._known.pop(name).digest)

    def route(self, prompts: Sequence[str | Sample | Tokens]) -> list[Route]:
        """Where each prompt goes.

        Raises:
            DataError: a prompt is empty or does not fit the chat template.
        """
        if isinstance(prompts, str):
            raise UsageError("route takes a list of prompts", hint='Such as route(["What is 2 + 2?"]).')
        with self._lock:
            tokens = [self.base.read(prompt) for prompt in prompts]
            names = self.skills
            if not names or not tokens:
                return [Route(()) for _ in tokens]
            found = self._method.scores(tokens, [self._known[name].digest for name in names])
            return [self._route(names, row) for row in found.tolist()]

    def _route(self, names: Sequence[str], values: Sequence[float]) -> Route:
        scored = [Scored(name, self._known[name].digest, value) for name, value in zip(names, values, strict=True)]
        ranked = sorted(scored, key=lambda each: (-each.score, each.name))
        least = self.thresholds
        fitting = [each for each in ranked if each.score >= least[each.name]]
        return Route(tuple(fitting[: self._top_k]), tuple(ranked))

    def _examples(self, skill: Skill) -> Examples | None:
        return find_examples(open_existing(self._store), skill.digest, self.base)

    def _open(self, address: str) -> Skill:
        (found,) = self._shelf.find([address])
        if found.weight != 1:
            raise UsageError(f"{address} has a weight", hint="A router chooses whole skills.")
        return found.skill


def check_limits(top_k: int, threshold: Threshold) -> None:
    """Raise UsageError for what is no number of skills, or no least score."""
    if top_k < 1:
        raise UsageError(f"top_k cannot be {top_k}", hint="A prompt gets one skill or more, if any.")
    if threshold != "auto" and not (isinstance(threshold, int | float) and math.isfinite(threshold)):
        raise UsageError(f"{threshold!r} is no threshold", hint='Give a number, or "auto".')
