"""The tensors of a composition: which skills change each, what they add to it, and what becomes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from skillpack.composing.elementwise import IN_MEMORY, layer_of
from skillpack.composing.protocol import Deltas, Linear, Source
from skillpack.errors import DamagedSkillError
from skillpack.installing.claims import gone_tensors
from skillpack.installing.companion_files import combined_changes
from skillpack.packing.spool import spooled
from skillpack.summing import unaddable
from skillpack.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.companions import FileChange
    from skillpack.composing.known_base import KnownBase
    from skillpack.composing.protocol import Method
    from skillpack.composing.recipe import Recipe
    from skillpack.installing.claims import Active, Target
    from skillpack.manifest import TensorEntry
    from skillpack.summing import Claim
    from skillpack.tensors import Floats

VALUES: Final = frozenset({"exact", "raw"})
"""Codecs whose streams say what a tensor is, and not what is added to it."""


@dataclass(frozen=True, eq=False)
class Composition:
    """Skills, and how they become one.

    Attributes:
        skills: in the order of the recipe's parts.
        recipe: how.
        base: of all of them.
        targets: by the name that an install writes; what changes.
        tensors_only: nothing but these changes: what skills do to files, and tensors that they take away, is left out.
    """

    skills: tuple[Active, ...]
    recipe: Recipe
    base: KnownBase
    targets: dict[str, Target]
    tensors_only: bool = False
    _twins: dict[str, str | None] = field(default_factory=dict, repr=False)
    _entries: dict[str, tuple[Active, dict[str, TensorEntry]]] = field(default_factory=dict, repr=False)

    @property
    def gone(self) -> tuple[str, ...]:
        """Tensors of the base that are taken away."""
        return () if self.tensors_only else tuple(sorted(gone_tensors(self.skills)))

    @property
    def files(self) -> tuple[FileChange, ...]:
        """Changes of other files."""
        return () if self.tensors_only else tuple(combined_changes(self.skills))

    @cached_property
    def layers(self) -> int:
        """How many numbered layers the base has; without the base, as far as skills change them.

        Where it has several stacks of layers, only those count of which skills change something.
        """
        changed = {_stack(target.reference) for target in self.targets.values() if target.reference is not None}
        numbers = (layer_of(name) for name in self.base.tensors if _stack(name) in changed)
        return 1 + max((number for number in numbers if number is not None), default=-1)

    def sources(self, target: Target | None = None) -> tuple[Source, ...]:
        """The skills, and whether they touch a tensor."""
        touching = None if target is None else {claim.digest for claim in target.claims}
        return tuple(
            Source(active.skill.name, active.skill.digest, touching is None or active.skill.digest in touching)
            for active in self.skills
        )

    def reason(self, target: Target) -> str | None:
        """Why what skills do to a tensor cannot be added; None if it can."""
        entries = [claim.entry for claim in target.claims]
        # A fine-tune's floats are relative to floats, so that its dtype says enough of the base's.
        known = None if target.reference is None else Tensor(entries[0].dtype, (0,), np.empty(0, np.uint8))
        return unaddable(known, entries)

    def twin(self, target: Target) -> str | None:
        """The other changed tensor that this one is the same as, for all skills that change either."""
        if target.name not in self._twins:
            self._twins[target.name] = self._find_twin(target)
        return self._twins[target.name]

    def addable(self) -> list[Target]:
        """Tensors that a method merges, each that is there twice only once."""
        return [target for target in self.targets.values() if self.reason(target) is None and self.twin(target) is None]

    def weights(self, target: Target) -> list[float]:
        """Factors of the skills' deltas of a tensor."""
        return self.recipe.weights_of(str(target.reference))

    def deltas(self, target: Target) -> Deltas:
        """What the skills add to a tensor; large ones are put into temporary files, one at a time."""
        claims = {claim.digest: claim for claim in target.claims}
        shape = target.form[1]
        large = math.prod(shape) * len(self.skills) > IN_MEMORY
        arrays = []
        for active in self.skills:
            claim = claims.get(active.skill.digest)
            if claim is None:
                arrays.append(np.broadcast_to(np.float32(0), (math.prod(shape),)).reshape(shape))
            else:
                delta = self.delta(target, claim)
                arrays.append(_on_disk(delta) if large else delta)
        return Deltas(self.sources(target), tuple(arrays), self.layers)

    def delta(self, target: Target, claim: Claim) -> Floats:
        """What one skill adds, fp32 of the tensor's shape.

        Raises:
            DamagedSkillError: it has another shape.
        """
        active, entry = self.coded(claim)
        if entry is not None and entry.main is not None and entry.main.codec not in VALUES:
            # The base need not be there, nor be read, to know what is added to it.
            decoded = active.skill.decode(entry, None)
        else:
            decoded = claim.decode()
        delta = decoded.delta
        if delta is None:
            delta = decoded.difference(target.name, self.base.read(str(target.reference)))
        if delta.shape != target.form[1]:
            raise DamagedSkillError(f"Skill {claim.skill}: tensor {target.name} does not have shape {target.form[1]}")
        return delta

    def merged(self, method: Method, target: Target) -> Floats:
        """What the composed skill adds to a tensor."""
        return method.merge(str(target.reference), self.deltas(target), self.weights(target))

    def coefficients(self, method: Method, target: Target) -> Sequence[float] | None:
        """Factors of the skills' deltas, if the method is a weighted sum."""
        if not isinstance(method, Linear):
            return None
        return method.coefficients(str(target.reference), self.sources(target), self.weights(target), self.layers)

    def coded(self, claim: Claim) -> tuple[Active, TensorEntry | None]:
        """The skill of a claim, and its entry that holds the streams; None if the base's own tensor takes its place."""
        if not self._entries:
            for active in self.skills:
                entries = {entry.name: entry for entry in active.skill.manifest.tensors}
                self._entries[active.skill.digest] = active, entries
        active, entries = self._entries[claim.digest]
        return active, entries.get(claim.entry.same_as or claim.entry.name)

    def _find_twin(self, target: Target) -> str | None:
        named = {claim.entry.same_as for claim in target.claims}
        other = self.targets.get(next(iter(named)) or "") if len(named) == 1 else None
        if other is None or other.reference is None or target.reference is None:
            return None
        same_skills = {claim.digest for claim in other.claims} == {claim.digest for claim in target.claims}
        same_start = self.base.digests[other.reference] == self.base.digests[target.reference]
        same_weights = self.weights(other) == self.weights(target)
        return other.name if same_skills and same_start and same_weights and other.form == target.form else None


def _stack(name: str) -> str | None:
    """What is before the number of the layer in a tensor's name; None if it is in no layer."""
    layer = layer_of(name)
    return None if layer is None else f".{name}".partition(f".{layer}.")[0]


def _on_disk(delta: Floats) -> Floats:
    found: Floats = spooled(delta.shape, np.float32)
    found[...] = delta
    return found
