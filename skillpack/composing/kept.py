"""Tensors that cannot be added: new ones, those with new rows, whole numbers. One skill's is taken as it is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from skillpack.codecs.protocol import Layout
from skillpack.codecs.sum import Term
from skillpack.composing.composition import VALUES
from skillpack.composing.plans import KeptPlan, SumPlan, ValuePlan
from skillpack.delta import Change
from skillpack.errors import ConflictError
from skillpack.skill import first_rows
from skillpack.summing import installed_tensor, refuse_scaling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.composition import Composition
    from skillpack.installing.claims import Target
    from skillpack.manifest import TensorEntry
    from skillpack.packing.planning import Plan
    from skillpack.skill import Skill
    from skillpack.tensors import Floats, Tensor


@dataclass(frozen=True, eq=False)
class KeptTensors:
    """What becomes of tensors that cannot be added.

    Attributes:
        composition: the skills.
    """

    composition: Composition

    def refuse_clash(self, target: Target, reason: str, factors: Sequence[float] | None) -> None:
        """Refuse what is scaled, taken away, or wanted differently by two skills.

        Args:
            target: the tensor.
            reason: why it cannot be added.
            factors: of the skills' deltas, where the method is a weighted sum.

        Raises:
            ConflictError: names tensor and skills.
            UsageError: the base has to be given to compare what two skills want.
        """
        negative = {
            active.skill.digest: factor
            for active, factor in zip(self.composition.skills, factors or (), strict=False)
            if factor < 0
        }
        for claim in target.claims:
            refuse_scaling(target.name, claim.skill, negative.get(claim.digest, claim.weight), reason)
        if len(target.claims) > 1:
            base = None if target.reference is None else self.composition.base.read(target.reference)
            try:
                installed_tensor(base, target.claims)
            except ConflictError as error:
                raise ConflictError(error.message, hint="Leave one of them out: this cannot be composed.") from error

    def needs_base(self, target: Target) -> bool:
        """Whether values of the base are needed for a tensor."""
        _, entry = self.composition.coded(target.claims[0])
        compared = len(target.claims) > 1 and target.reference is not None
        return compared or entry is None or entry.main is None or entry.main.codec == "exact"

    def change(self, target: Target) -> Change:
        """What an install writes."""
        entry = target.claims[0].entry
        shared = {claim.entry.same_as for claim in target.claims}
        same_as = entry.same_as if len(shared) == 1 and entry.same_as in self.composition.targets else None
        return Change(target.name, entry.dtype, entry.shape, target.reference, entry.common_rows, same_as)

    def plans(self, target: Target) -> list[Plan]:
        """How it is written: the streams of the first skill, but for what was coded by distances in its own tables."""
        active, entry = self.composition.coded(target.claims[0])
        if entry is None or entry.main is None:
            return [ValuePlan(target.name, lambda: (None, self._whole(target)))]
        streams = active.skill.streams(entry)
        rows: list[Plan] = [] if entry.rows is None else [KeptPlan(entry.rows, streams[1])]
        if entry.main.codec == "raw":
            return [KeptPlan(entry.main, streams[0]), *rows]
        if entry.main.codec in VALUES:
            return [ValuePlan(target.name, lambda: self._common(target, active.skill, entry)), *rows]
        at = next(at for at, each in enumerate(self.composition.skills) if each is active)
        plan = SumPlan(
            target.name,
            Layout(entry.dtype, _common_shape(entry)),
            lambda: [term_of(active.skill, entry, 1.0, at)],
            lambda: _delta(active.skill, entry),
        )
        return [plan, *rows]

    def _whole(self, target: Target) -> Tensor:
        base = None if target.reference is None else self.composition.base.read(target.reference)
        return installed_tensor(base, target.claims[:1])

    def _common(self, target: Target, skill: Skill, entry: TensorEntry) -> tuple[Tensor, Tensor]:
        """The base's tensor and the skill's, of the rows that they have in common."""
        base = self.composition.base.read(str(target.reference))
        value = skill.decode(entry, base).value
        if value is None:
            raise ValueError(f"tensor {entry.name} is no value")
        return first_rows(base, value.shape), value


def term_of(skill: Skill, entry: TensorEntry, weight: float, at: int) -> Term:
    """The part `main` of an entry as a term of a sum.

    Args:
        skill: that it belongs to.
        entry: with a part of its own.
        weight: its factor.
        at: index of the skill, under which its tables are found.
    """
    if entry.main is None:
        raise ValueError(f"tensor {entry.name} has no part of its own")
    stream = skill.streams(entry)[0]
    ends = np.cumsum([0, *entry.main.sizes]).tolist()
    chunks = [stream[first:last] for first, last in pairwise(ends)]
    return Term(entry.main.codec, entry.main.parameters, chunks, float(weight), str(at))


def _common_shape(entry: TensorEntry) -> tuple[int, ...]:
    return entry.shape if entry.common_rows is None else (entry.common_rows, *entry.shape[1:])


def _delta(skill: Skill, entry: TensorEntry) -> Floats:
    delta = skill.decode(entry, None).delta
    if delta is None:
        raise ValueError(f"tensor {entry.name} is no delta")
    return delta
