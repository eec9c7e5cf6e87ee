"""`model="NAME+auto"`: the server chooses the skill of a prompt among those that are loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import ConflictError, ReportedError
from skillpack.routing.features import Base
from skillpack.routing.opening import method_named
from skillpack.routing.router import SkillRouter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from skillpack.routing.applying import Named
    from skillpack.routing.protocol import Route, Threshold
    from skillpack.serving.resident import OverlaidSkills
    from skillpack.serving.shelf import Selection, Shelf
    from skillpack.skill import Skill
    from skillpack.summaries import StoreLike

AUTO: Final = "auto"
_logger = logging.getLogger(__name__)


class ServedSkills:
    """The skills of a server, which the shelf loads and unloads; see `skillpack.routing.applying.Applied`."""

    def __init__(self, resident: OverlaidSkills) -> None:
        self._resident = resident

    def load(self, skill: Skill) -> None:
        """The shelf has done that."""

    def unload(self, skill: Named) -> None:
        """The shelf does that."""

    def rows(self, skills: Sequence[Named | None]) -> AbstractContextManager[object]:
        """Within this, each row has a skill or none."""
        return self._resident.rows([() if skill is None else ((skill.digest, 1.0),) for skill in skills])


class AutoRoute:
    """Chooses skills for prompts, in the thread of the model.

    Args:
        model: the base.
        tokenizer: of the base, for this alone.
        resident: the model's skills.
        method: of routing, see `skillpack.open_router`.
        top_k: most skills for a prompt.
        threshold: least score of a skill that is chosen, or "auto".
        store: where examples of skills are.
        branch: of the library.
        shelf: what is offered.
        between_steps: runs something in the thread of the model.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        resident: OverlaidSkills,
        *,
        method: str,
        top_k: int,
        threshold: Threshold,
        store: StoreLike,
        branch: str,
        shelf: Shelf,
        between_steps: Callable[[Callable[[], None]], Future[None]],
    ) -> None:
        base = Base(model, tokenizer, ServedSkills(resident))
        self._router = SkillRouter(
            base, method_named(method)(base), store=store, branch=branch, top_k=top_k, threshold=threshold
        )
        self._shelf = shelf
        self._between_steps = between_steps
        self._refused: set[str] = set()

    @property
    def model(self) -> str:
        """What clients ask for."""
        return f"{self._shelf.base}+{AUTO}"

    def prepare(self) -> None:
        """Get to know the skills that are loaded; otherwise the first prompt waits for that."""
        self._between_steps(self._meet).result()

    def select(self, prompt: list[int]) -> Selection:
        """The model for a prompt: the base, or the base with skills, as `Shelf.select` holds it."""
        return self._together(self._choose(prompt))

    def _together(self, chosen: Sequence[str]) -> Selection:
        """The best of these that go together; the client has not asked for them, and it would be told of a conflict."""
        try:
            return self._shelf.select(self._model_of(chosen))
        except ConflictError as error:
            if len(chosen) < 2:
                raise
            _logger.warning("%s is left out for a prompt: %s", chosen[-1], error)
        return self._together(chosen[:-1])

    def _model_of(self, chosen: Sequence[str]) -> str:
        """The name by which a client would get the same: several skills have equal shares, as `Route.addresses`."""
        share = f"={1 / len(chosen)!r}" if len(chosen) > 1 else ""
        return "+".join([self._shelf.base, *(f"{name}{share}" for name in chosen)])

    def _choose(self, prompt: list[int]) -> list[str]:
        """Under which names the skills for a prompt are served, best first."""
        found: list[Route] = []

        def work() -> None:
            self._meet()
            found.extend(self._router.route([prompt]))

        self._between_steps(work).result()
        names = {offered.digest: offered.name for offered in self._shelf.offered()}
        return [names[choice.digest] for choice in found[0].choices if choice.digest in names]

    def _meet(self) -> None:
        """Let the router know what is loaded now, and no more; of versions of one skill, what was loaded last."""
        latest = {
            each.label.partition("@")[0]: each.digest
            for each in sorted(self._shelf.offered(), key=lambda each: each.since)
        }
        offered = {digest: f"{name}@{digest}" for name, digest in latest.items()}
        for name, digest in self._router.digests.items():
            if digest not in offered:
                self._router.remove(name)
        known = set(self._router.digests.values())
        self._refused &= offered.keys()
        for digest in offered.keys() - known - self._refused:
            self._try(offered[digest], digest)

    def _try(self, address: str, digest: str) -> None:
        try:
            self._router.add(address)
        except ReportedError as error:
            self._refused.add(digest)
            _logger.warning("%s is never chosen: %s", address, error)
