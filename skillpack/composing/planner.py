"""Decides for each tensor of a composition how it is written; see `skillpack.composing.plans` for the ways.

* What cannot be added is taken from one skill as it is (`skillpack.composing.kept`).
* A weighted sum of deltas keeps the streams of its parts, unless a size is asked for that they do not fit.
* What all skills keep bit for bit is kept bit for bit, and so are small tensors of 16-bit models.
* All else is coded anew, with the step that the skills were coded with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skillpack.codecs.entropy import Tables
from skillpack.codecs.noise import Seed
from skillpack.codecs.protocol import Layout
from skillpack.composing.composition import VALUES
from skillpack.composing.elementwise import mapped, weighted_sum
from skillpack.composing.kept import KeptTensors, term_of
from skillpack.composing.known_base import needs_base
from skillpack.composing.plans import ComposedPlan, SumPlan, ValuePlan, usual_step
from skillpack.delta import Change
from skillpack.packing.planning import kept_exactly
from skillpack.summing import installed_tensor
from skillpack.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.codecs.entropy import Table
    from skillpack.codecs.sum import Term
    from skillpack.composing.composition import Composition
    from skillpack.composing.protocol import Method
    from skillpack.delta import Delta
    from skillpack.installing.claims import Target
    from skillpack.packing.planning import Plan
    from skillpack.summing import Claim
    from skillpack.tensors import Floats


@dataclass(frozen=True, eq=False)
class ComposePlanner:
    """Plans tensors; see `skillpack.packing.packer.Planner`.

    Attributes:
        composition: the skills.
        method: how they become one; with everything known that it has to know.
        recoded: weighted sums are coded anew too, to meet a size.
    """

    composition: Composition
    method: Method
    recoded: bool = False
    _kept: KeptTensors = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kept", KeptTensors(self.composition))

    def __call__(self, delta: Delta, change: Change, *, exact: bool) -> list[Plan]:
        """See `Planner`."""
        del exact
        target = self.composition.targets[change.name]
        if change.same_as is not None:
            return []
        if self.composition.reason(target) is not None:
            return self._kept.plans(target)
        return [self._plan(delta, change, target)]

    def changes(self) -> list[Change]:
        """What an install of the composed skill changes, sorted by name.

        Raises:
            ConflictError: skills want different things of a tensor that cannot be added, or scale what cannot be.
            UsageError: the base is not given, and values of it are needed.
        """
        targets = self.composition.targets
        if self.composition.base.given is None and (
            needy := [name for name in targets if self._needs_base(targets[name])]
        ):
            raise needs_base(needy)
        found = []
        for name, target in sorted(targets.items()):
            reason = self.composition.reason(target)
            if reason is not None:
                self._kept.refuse_clash(target, reason, self._factors(target))
                found.append(self._kept.change(target))
            elif self._remains(target):
                dtype, shape = target.form
                found.append(Change(name, dtype, shape, target.reference, None, self.composition.twin(target)))
        return found

    def tables(self) -> dict[str, Table]:
        """Frequency tables of the skills whose streams are kept, by the index of the skill."""
        found: dict[str, Table] = {}
        for at, active in enumerate(self.composition.skills):
            tables = active.skill.manifest.tables
            # What is kept bit for bit is coded anew, with tables of its own.
            kept = {context: table for context, table in tables.items() if not context.startswith("exact.")}
            found |= Tables.from_json(kept).within(str(at))
        return found

    def step(self, target: Target) -> float | None:
        """The step that skills were coded with, weighted: the root mean square over those that touch a tensor."""
        digests = [active.skill.digest for active in self.composition.skills]
        weights = dict(zip(digests, self.composition.weights(target), strict=True))
        found = []
        for claim in target.claims:
            _, entry = self.composition.coded(claim)
            step = None if entry is None or entry.main is None else usual_step(entry.main)
            if step is not None:
                found.append((step * weights[claim.digest]) ** 2)
        return math.sqrt(sum(found) / len(found)) if any(found) else None

    def _plan(self, delta: Delta, change: Change, target: Target) -> Plan:
        if self._bit_for_bit(target):
            return ValuePlan(target.name, lambda: self._value(target))
        if self._keeps_streams(target):
            layout = Layout(*target.form)
            return SumPlan(target.name, layout, lambda: self._terms(target), lambda: self._summed(target))
        recipe = self.composition.recipe.digest
        plan = ComposedPlan(delta, change, Seed((recipe, target.name)), recipe=recipe)
        plan.fineness = plan.usual_fineness
        return plan

    def _needs_base(self, target: Target) -> bool:
        if self.composition.reason(target) is not None:
            return self._kept.needs_base(target)
        if not self._remains(target) or self.composition.twin(target) is not None:
            return False
        return self._bit_for_bit(target) or self._has_values(target)

    def _bit_for_bit(self, target: Target) -> bool:
        """Whether a tensor of floats is kept as a value."""
        if self._is_sum(target) and not self._has_values(target):
            return False
        if kept_exactly(Change(target.name, *target.form, target.reference)):
            return True
        return self.composition.recipe.size is None and self.step(target) is None

    def _keeps_streams(self, target: Target) -> bool:
        if not self._is_sum(target) or self._has_values(target):
            return False
        return not self.recoded or kept_exactly(Change(target.name, *target.form, target.reference))

    def _is_sum(self, target: Target) -> bool:
        return self._factors(target) is not None

    def _has_values(self, target: Target) -> bool:
        """Whether a skill says what a tensor is, so that the base must tell what it adds."""
        for claim in target.claims:
            _, entry = self.composition.coded(claim)
            if entry is None or entry.main is None or entry.main.codec in VALUES:
                return True
        return False

    def _remains(self, target: Target) -> bool:
        """Whether anything is left of what skills do to a tensor."""
        return not self._is_sum(target) or bool(self._weighted(target))

    def _factors(self, target: Target) -> Sequence[float] | None:
        return self.composition.coefficients(self.method, target)

    def _weighted(self, target: Target) -> list[Claim]:
        """The claims of a weighted sum with their factors, those of factor 0 left out, in the order of the skills."""
        factors = self._factors(target) or [0.0] * len(self.composition.skills)
        claims = {claim.digest: claim for claim in target.claims}
        return [
            claims[active.skill.digest]._replace(weight=factor)
            for active, factor in zip(self.composition.skills, factors, strict=True)
            if factor and active.skill.digest in claims
        ]

    def _value(self, target: Target) -> tuple[Tensor, Tensor]:
        """The base's tensor and the composed one."""
        base = self.composition.base.read(str(target.reference))
        if self._is_sum(target):
            return base, installed_tensor(base, self._weighted(target), target.form[0])
        merged = self.composition.merged(self.method, target)
        return base, Tensor.from_float32(base.float32() + merged, target.form[0])

    def _terms(self, target: Target) -> list[Term]:
        order = {active.skill.digest: at for at, active in enumerate(self.composition.skills)}
        terms = []
        for claim in self._weighted(target):
            active, entry = self.composition.coded(claim)
            if entry is not None:
                terms.append(term_of(active.skill, entry, claim.weight, order[claim.digest]))
        return terms

    def _summed(self, target: Target) -> Floats:
        factors = self._factors(target) or []
        return mapped(self.composition.deltas(target), lambda pieces: weighted_sum(pieces, factors))
