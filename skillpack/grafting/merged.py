"""Merged mode: the weights themselves are those of the base with skills installed, written in place.

What is written is computed from the base each time, or was and is still in the cache; nothing is ever subtracted. A
change is all or nothing: places that are being written are noted before, and whatever interrupts the writing, they
are set to what they were. Should that be interrupted as well, the note is still there and the next call finishes it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from skillpack.errors import ModifiedModelError, listing
from skillpack.grafting.cache import WeightCache
from skillpack.grafting.live_tensors import live, same_bits, stamp, write
from skillpack.grafting.planning import Plan, Step, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from skillpack.grafting.base import LiveBase
    from skillpack.grafting.originals import Extent
    from skillpack.grafting.places import Place
    from skillpack.installing.claims import Active

_PLANS: Final = 64
"""Plans that are kept; one is a few objects for each tensor."""


@dataclass(frozen=True, eq=False)
class _State:
    """What is on the model, exchanged as one.

    Attributes:
        plan: the skills and what they are to be at each place.
        settle: called when the weights are as `plan` says, or are so again.
    """

    plan: Plan = field(default_factory=lambda: Plan((), {}))
    settle: Callable[[], None] = lambda: None


class Merged:
    """Skills written into the weights of a live model.

    Args:
        base: the model as a base.
        cache_bytes: memory for weights of skills that were here lately.
        pinned: keep those in memory that a GPU can read directly.
    """

    def __init__(self, base: LiveBase, cache_bytes: int, *, pinned: bool = False) -> None:
        self._base = base
        self._cache = WeightCache(cache_bytes)
        self._pinned = pinned
        self._plans: OrderedDict[tuple[tuple[str, float], ...], Plan] = OrderedDict()
        self._state = _State()
        self._touched: dict[Extent, tuple[Place, str]] = {}
        self._stamps: dict[int, tuple[torch.Tensor, tuple[int, int | None]]] = {}
        self._unsettled: dict[Extent, None] = {}
        self._settled = True

    @property
    def active(self) -> tuple[Active, ...]:
        """The skills that the weights hold, sorted by name."""
        return self._state.plan.active

    def plan(self, active: Iterable[Active]) -> Plan:
        """Check everything that can be checked before weights are computed, see `make_plan`; changes nothing."""
        skills = tuple(active)
        key = tuple(sorted((each.skill.digest, each.weight) for each in skills))
        plan = self._plans.pop(key, None)
        plan = make_plan(skills, self._base) if plan is None else Plan(_by_name(skills), plan.steps)
        self._plans[key] = plan
        while len(self._plans) > _PLANS:
            self._plans.popitem(last=False)
        return plan

    def load(self, plan: Plan) -> None:
        """Compute what a plan would write, as far as the cache has room, and write nothing."""
        self.recover()
        self._check_stamps()
        self._ahead(plan.steps.values())

    def apply(self, plan: Plan, settle: Callable[[], None] = lambda: None) -> None:
        """Make the weights what a plan says, all or nothing.

        Args:
            plan: of `plan`.
            settle: called when they are, and again whenever they are so anew.

        Raises:
            ModifiedModelError: somebody else has changed weights that skills have touched; nothing is written.
            DamagedSkillError: a skill's content makes no sense; the weights are as before.
        """
        self.recover()
        self._check_stamps()
        before = self._state.plan.steps
        changed = {
            extent: step
            for extent, step in plan.steps.items()
            if extent not in before or before[extent].content != step.content
        }
        self._ahead(changed.values())
        self._keep(changed)
        gone = {extent: None for extent in before if extent not in plan.steps}
        self._settled = False
        try:
            for extent, step in {**changed, **gone}.items():
                self._unsettled[extent] = None
                self._write(extent, step)
            self._state = _State(plan, settle)
        finally:
            self.recover(written=self._state.plan is plan)

    def recover(self, *, written: bool = False) -> None:
        """Finish what was interrupted: set all places that were being written to what the state says.

        Args:
            written: they are that already.
        """
        interrupt = None
        while self._unsettled or not self._settled:
            interrupt = self._settle_next(written=written) or interrupt
        if interrupt is not None:
            raise interrupt

    def _settle_next(self, *, written: bool) -> KeyboardInterrupt | None:
        try:
            extent = next(iter(self._unsettled), None)
            if extent is None:
                self._state.settle()
                self._settled = True
                return None
            if not written:
                self._write(extent, self._state.plan.steps.get(extent))
            self._note(extent)
            del self._unsettled[extent]
        except KeyboardInterrupt as interrupt:
            return interrupt
        return None

    def verify(self) -> None:
        """Compare every weight that was ever touched with what base and skills say, computed anew.

        Raises:
            ModifiedModelError: names the tensors that differ.
        """
        self.recover()
        steps, wrong = self._state.plan.steps, []
        for extent, (place, name) in self._touched.items():
            step = steps.get(extent)
            expected = self._base.put_back(place) if step is None else live(step.compute(self._base))
            if not self._base.unharmed(name) or not same_bits(place.values, expected.to(place.tensor.device)):
                wrong.append(name)
        if wrong:
            raise ModifiedModelError(
                f"{len(wrong)} of {len(self._touched)} tensors that skills have touched are not what base and skills "
                f"say: {listing(wrong)}",
                tensors=wrong,
                hint="Something else has written to them. Load the model anew.",
            )

    def _ahead(self, steps: Iterable[Step]) -> None:
        """Compute before anything is written what the cache has room for, so that writing is copying."""
        room = self._cache.limit
        for step in steps:
            room -= step.place.values.nbytes
            if room < 0:
                return
            self._merged(step)

    def _keep(self, changed: Mapping[Extent, Step]) -> None:
        for extent, step in changed.items():
            if extent not in self._touched:
                self._base.keep(step.reference)
                self._touched[extent] = step.place, step.reference
                self._note(extent)

    def _merged(self, step: Step) -> torch.Tensor:
        def compute() -> torch.Tensor:
            values = live(step.compute(self._base))
            return values.pin_memory() if self._pinned else values

        return self._cache.get(step.content, step.place.tensor.dtype, compute)

    def _write(self, extent: Extent, step: Step | None) -> None:
        place, _ = self._touched[extent]
        write(place.values, self._base.put_back(place) if step is None else self._merged(step))

    def _note(self, extent: Extent) -> None:
        tensor = self._touched[extent][0].tensor
        self._stamps[id(tensor)] = tensor, stamp(tensor)

    def _check_stamps(self) -> None:
        """Look whether others have written to touched tensors; what did not change its values is let through."""
        stale = {key for key, (tensor, seen) in self._stamps.items() if stamp(tensor) != seen}
        if not stale:
            return
        steps, wrong = self._state.plan.steps, []
        for extent, (place, name) in self._touched.items():
            if id(place.tensor) not in stale:
                continue
            step = steps.get(extent)
            expected = self._base.put_back(place) if step is None else self._merged(step)
            if same_bits(place.values, expected.to(place.tensor.device)):
                self._note(extent)
            else:
                wrong.append(name)
        if wrong:
            raise ModifiedModelError(
                f"Weights were changed by somebody else since skills were grafted: {listing(wrong)}",
                tensors=wrong,
                hint="Load the model anew. Before training or casting, take skills off; afterwards, make a new host.",
            )


def _by_name(skills: Iterable[Active]) -> tuple[Active, ...]:
    return tuple(sorted(skills, key=lambda each: each.skill.name))
