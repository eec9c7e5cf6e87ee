"""From skills and a recipe to the coded streams and the manifest of the composed skill."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack.composing.planner import ComposePlanner
from skillpack.composing.surveying import surveyed
from skillpack.composing.tensors import ComposedDelta, ComposedTensors
from skillpack.errors import UsageError
from skillpack.installing.claims import common_renaming
from skillpack.packing.analysis import Analyst
from skillpack.packing.packer import Extras, Goal, Packer
from skillpack.packing.unfinished import unfinished_work
from skillpack.settings import unfinished_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.composing.composition import Composition
    from skillpack.composing.protocol import Method
    from skillpack.packing.opening import Hands
    from skillpack.packing.packer import Packed
    from skillpack.packing.unfinished import Unfinished
    from skillpack.packing.workers import Workers
    from skillpack.progress import Progress


@dataclass(frozen=True)
class Made:
    """A composed skill before it is put into a store.

    Attributes:
        packed: manifest and streams.
        summed: tensors whose streams are those of the parts.
        recoded: tensors whose delta was coded anew.
        resumed: tensors that an interrupted run had already worked on.
    """

    packed: Packed
    summed: int
    recoded: int
    resumed: int


@contextmanager
def made(composition: Composition, method: Method, hands: Hands, progress: Progress) -> Iterator[Made]:
    """Compose; what an interrupted run of the same recipe has left is used, and goes when the block ends well.

    Raises:
        ConflictError: skills want different things of something that cannot be added.
        NotFiniteError: a delta holds NaN or infinity.
        UsageError: the base has to be given, the size cannot be met, or nothing is left to change.
    """
    name = f"compose-{composition.recipe.digest.removeprefix('sha256:')[:32]}"
    with hands.hired() as (threads, analysts), unfinished_work(unfinished_folder(), name) as unfinished:
        work = _Work(composition, method, Analyst(analysts, hands.device, unfinished), threads, progress)
        packed = work.pack()
        try:
            yield Made(packed, *_counted(packed), resumed=unfinished.resumed)
        finally:
            packed.payload.close()


class _Work:
    """One composition, and who does it."""

    def __init__(
        self, composition: Composition, method: Method, analyst: Analyst, threads: Workers, progress: Progress
    ) -> None:
        self._composition, self._analyst, self._threads, self._progress = composition, analyst, threads, progress
        # What clashes is refused before the method looks at anything.
        self._changes = tuple(ComposePlanner(composition, method).changes())
        self._method = surveyed(composition, method, self._unfinished, progress)

    @property
    def _unfinished(self) -> Unfinished:
        return self._analyst.unfinished

    def pack(self) -> Packed:
        """Code everything, as faithfully as the parts are or to the size that is asked for."""
        size = self._composition.recipe.size
        planner = ComposePlanner(self._composition, self._method)
        packer = self._packer(planner, Goal())
        if size is None:
            return self._faithful(packer, planner)
        if not packer.lossy:
            whole = self._faithful(packer, planner)
            if whole.size <= size:
                return whole
            whole.payload.close()
        planner = ComposePlanner(self._composition, self._method, recoded=True)
        packer = self._packer(planner, Goal(size=size))
        _steps(packer, planner, self._composition)
        return packer.pack()

    def _faithful(self, packer: Packer, planner: ComposePlanner) -> Packed:
        step = _steps(packer, planner, self._composition)
        return packer.pack() if step is None else packer.coded_at(step)

    def _packer(self, planner: ComposePlanner, goal: Goal) -> Packer:
        composition = self._composition
        delta = ComposedDelta(
            base=composition.base,
            tuned=ComposedTensors(composition, self._method),
            changes=self._changes,
            gone=composition.gone,
            renaming=common_renaming(composition.skills),
            base_digests=composition.base.digests,
            tuned_digests={},
            files=composition.files,
            code_files=(),
            marks=(composition.base.fingerprint, composition.recipe.digest),
        )
        if not (delta.changes or delta.gone or delta.files):
            raise UsageError("nothing is left of the skills", hint="Give other weights.")
        kept = {} if planner.recoded else planner.tables()
        extras = Extras(kept, composition.recipe.to_json())
        return Packer(
            delta, goal, self._progress, analyst=self._analyst, threads=self._threads, plans=planner, extras=extras
        )


def _steps(packer: Packer, planner: ComposePlanner, composition: Composition) -> float | None:
    """Let each tensor have a step in proportion to that of its parts; returns the common one, None if none is known."""
    known = {}
    for plan in packer.lossy:
        step = planner.step(composition.targets[plan.change.name])
        if step is not None:
            known[plan.change.name] = step
    if not known:
        return None if packer.lossy else 1.0
    middle = math.exp(sum(map(math.log, known.values())) / len(known))
    for plan in packer.lossy:
        if plan.change.name in known:
            plan.fineness = known[plan.change.name] / middle
    return middle


def _counted(packed: Packed) -> tuple[int, int]:
    """How many tensors keep streams, and how many were coded anew."""
    mains = [entry.main for entry in packed.manifest.tensors if entry.main is not None]
    rough = sum(entry.error > 0 for entry in packed.manifest.tensors)
    return sum(main.codec == "sum" for main in mains), rough
