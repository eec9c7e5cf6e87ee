"""Overlay mode as a host sees it: which skills are resident, which apply, checked against the base first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack.errors import ModifiedModelError, NotFoundError, UsageError, WrongBaseError, listing
from skillpack.grafting.base import LiveBase
from skillpack.grafting.overlay.engine import Overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    import torch

    from skillpack.grafting.places import Place
    from skillpack.installing.claims import Active


class Overlaid:
    """Skills beside the weights of a live model, applied in its forward pass.

    Args:
        model: the live model.
        places: where its tensors are.
        base: the model as a base.
        kept_bytes: see `Overlay`.
    """

    def __init__(
        self, model: torch.nn.Module, places: Mapping[str, Place], base: LiveBase, kept_bytes: int | None = None
    ) -> None:
        self._places = places
        self._base = base
        self._overlay = Overlay(model, places, base, kept_bytes)
        self._resident: dict[str, Active] = {}
        self.active: tuple[Active, ...] = ()

    @property
    def resident(self) -> tuple[Active, ...]:
        """The skills that are loaded, sorted by name."""
        return tuple(sorted(self._resident.values(), key=lambda each: each.skill.name))

    def nbytes(self, digest: str) -> int:
        """Memory in bytes that a skill which is loaded takes."""
        return self._overlay.nbytes(digest)

    def plan(self, active: Iterable[Active]) -> tuple[Active, ...]:
        """Check that skills were packed from this base."""
        skills = tuple(sorted(active, key=lambda each: each.skill.name))
        for each in skills:
            if each.skill.digest not in self._resident:
                self._base.check(each.skill)
        return skills

    def load(self, plan: Sequence[Active]) -> None:
        """Make skills resident."""
        for each in plan:
            if each.skill.digest not in self._resident:
                self._overlay.load(each.skill)
                self._resident[each.skill.digest] = each

    def unload(self, names: Sequence[str]) -> None:
        """Drop skills that do not apply, by name or as ``name@digest``.

        Raises:
            NotFoundError: one is not loaded.
            UsageError: one applies.
        """
        applied = {each.skill.digest for each in self.active}
        meant = {digest: {each.skill.name, f"{each.skill.name}@{digest}"} for digest, each in self._resident.items()}
        if missing := [name for name in names if not any(name in words for words in meant.values())]:
            raise NotFoundError(f"{listing(missing)} is not loaded", hint="host.resident says what is.")
        chosen = {
            digest: each for digest, each in self._resident.items() if not names or not meant[digest].isdisjoint(names)
        }
        if names and (busy := [each.skill.name for digest, each in chosen.items() if digest in applied]):
            raise UsageError(f"{listing(busy)} is on the model", hint="Take it off first: host.ungraft().")
        for digest in chosen.keys() - applied:
            self._overlay.unload(digest)
            del self._resident[digest]

    def apply(self, plan: Sequence[Active], settle: Callable[[], None] = lambda: None) -> None:
        """Let exactly these skills apply to all rows; skills of the same names that no longer do are dropped."""
        self.load(plan)
        self._overlay.select(_choice(plan))
        before, self.active = self.active, tuple(plan)
        settle()
        present = {each.skill.digest for each in plan}
        names = {each.skill.name for each in plan}
        for each in before:
            if each.skill.name in names and each.skill.digest not in present:
                self._overlay.unload(each.skill.digest)
                del self._resident[each.skill.digest]

    def rows(self, rows: Sequence[Sequence[Active]]) -> AbstractContextManager[None]:
        """Let each row of a batch have its own skills."""
        for row in rows:
            self.load(self.plan(row))
        return self._overlay.rows([_choice(row) for row in rows])

    def verify(self) -> None:
        """Check anew that the weights are those of the base, as far as skills that are loaded touch it.

        Raises:
            ModifiedModelError: names the tensors that differ.
        """
        fresh = LiveBase(self._places, checkpoint=self._base.checkpoint)
        try:
            for each in self._resident.values():
                fresh.check(each.skill)
        except WrongBaseError as error:
            raise ModifiedModelError(
                f"Weights were changed by somebody else: {listing(error.tensors)}", tensors=error.tensors
            ) from error


def _choice(active: Iterable[Active]) -> tuple[tuple[str, float], ...]:
    return tuple((each.skill.digest, each.weight) for each in active)
