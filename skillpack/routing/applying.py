"""Skills on the base, row by row, for those methods that look at what a skill makes of a prompt."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.skill import Skill
    from skillpack.summaries import StoreLike


class Named(NamedTuple):
    """A skill by name and digest."""

    name: str
    digest: str


class Applied(Protocol):
    """Lets rows of a batch have skills."""

    def load(self, skill: Skill) -> None:
        """Make a skill ready.

        Raises:
            WrongBaseError: it was packed from another base.
            ConflictError: a live model cannot take it.
        """

    def unload(self, skill: Named) -> None:
        """Let go of a skill that was made ready."""

    def rows(self, skills: Sequence[Named | None]) -> AbstractContextManager[object]:
        """Within this, each row of a batch has one skill, or none; a batch of a multiple of so many repeats each."""


class HostSkills:
    """Skills of a host in overlay mode, which is made when the first skill is needed; see `Applied`.

    Args:
        model: the live base.
        store: where skills are.
        branch: of the library.
    """

    def __init__(self, model: Any, store: StoreLike, branch: str) -> None:
        self._model = model
        self._store = store
        self._branch = branch
        self._loaded: set[str] = set()
        # A host in merged mode that had nothing on it when ours took its place; its owner can still use it.
        self._merged: Any = None

    def load(self, skill: Skill) -> None:
        """Make a skill ready."""
        host = self._overlay()
        if skill.digest not in {each.digest for each in host.resident}:
            host.load(_address(skill))
            self._loaded.add(skill.digest)

    def unload(self, skill: Named) -> None:
        """Let go of a skill, if it was not there before and does not apply to the model."""
        host = self._overlay()
        if skill.digest in self._loaded and skill.digest not in {each.digest for each in host.installed}:
            host.unload(_address(skill))
        self._loaded.discard(skill.digest)

    def rows(self, skills: Sequence[Named | None]) -> AbstractContextManager[object]:
        """Within this, each row has a skill or none."""
        present = vars(self._model).get("_skillpack_host")
        if not any(skills) and not any(host is not None and host.installed for host in (present, self._merged)):
            return nullcontext()
        return self._overlay().rows([None if skill is None else _address(skill) for skill in skills])

    def _overlay(self) -> Any:
        from skillpack.grafting.host import host

        present = vars(self._model).get("_skillpack_host")
        if present is not None and present.mode != "overlay":
            self._merged = present
        if self._merged is not None and self._merged.installed:
            raise UsageError(
                "Routes are found on the base, and the model has skills written into it",
                hint='Take them off first (host.ungraft()), or make the host with mode="overlay".',
            )
        if present is not None and present.mode == "overlay":
            return present
        return host(self._model, mode="overlay", store=self._store, branch=self._branch)


def _address(skill: Named | Skill) -> str:
    return f"{skill.name}@{skill.digest}"
