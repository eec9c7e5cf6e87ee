"""A skill made ready for a live model: what it does to each of the model's tensors, decoded, nothing attached yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from skillpack.grafting.live_tensors import DTYPES, live
from skillpack.grafting.overlay.blends import Blend
from skillpack.grafting.overlay.parts import Dense, Factors, Use, part_of
from skillpack.grafting.overlay.uses import use_of
from skillpack.grafting.planning import make_plan
from skillpack.installing.claims import Active
from skillpack.summing import installed_tensor, unaddable
from skillpack.tensors import FLOAT_DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.grafting.base import LiveBase
    from skillpack.grafting.overlay.blends import Blends, Key
    from skillpack.grafting.overlay.parts import Part
    from skillpack.grafting.places import Owner, Place
    from skillpack.grafting.planning import Step
    from skillpack.skill import Skill
    from skillpack.summing import Claim

_NARROW: Final = 1 / 16
"""Factors that take less than this share of the work of their matrix itself are not worth a copy of it."""


@dataclass(eq=False)
class Change:
    """What a skill does to one live tensor.

    Attributes:
        name: one of the tensor's names in the checkpoint.
        owners: every module and attribute that holds it.
        steps: what is to be at which part of it, see `skillpack.grafting.planning`.
        part: what the modules add to their outputs; None if the tensor is replaced.
        width: what factors take of the work of their matrix itself; 0 where they take so little that a blended tensor
            is not worth its memory even where all rows have one choice.
        lone: the tensor with this skill alone at weight 1, held for as long as the skill is loaded.
    """

    name: str
    owners: tuple[Owner, ...]
    steps: list[Step]
    part: Part | None = None
    width: float = 0.0
    lone: Blend | None = None

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return (0 if self.part is None else self.part.nbytes) + (0 if self.lone is None else self.lone.nbytes)


@dataclass(eq=False)
class Prepared:
    """A skill that is ready to be attached.

    Attributes:
        skill: the opened skill.
        changes: by the first owner of each tensor.
    """

    skill: Skill
    changes: dict[Owner, Change]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(change.nbytes for change in self.changes.values())


def prepare(skill: Skill, base: LiveBase) -> Prepared:
    """Check a skill against a live model and decode it.

    Raises:
        WrongBaseError: the model was not loaded from the base of the skill.
        ConflictError: the skill asks for what a live model cannot take, or for what this one cannot add.
        DamagedSkillError: the skill's content makes no sense.
    """
    plan = make_plan([Active(skill)], base)
    holders = _holders(base)
    changes: dict[Owner, Change] = {}
    for step in plan.steps.values():
        owners = tuple(holders.get(_memory(step.place), step.place.owners))
        change = changes.setdefault(owners[0], Change(step.reference, owners, []))
        change.steps.append(step)
    for change in changes.values():
        _decode(skill, change, base)
    return Prepared(skill, changes)


def folded(changes: Sequence[tuple[Change, float]], base: LiveBase, kept: Blends) -> Blend:
    """A live matrix with the factors of several skills, each with its weight, added in fp32; computed when first used.

    Args:
        changes: of one tensor, all of them factors.
        base: the live model.
        kept: where the matrix is kept.
    """
    step = changes[0][0].steps[0]

    def compute() -> torch.Tensor:
        total = torch.from_numpy(np.array(base.read(step.reference).float32()))
        for change, weight in changes:
            assert isinstance(change.part, Factors)
            change.part.add_to_matrix(total, weight)
        return total.to(step.place.tensor.dtype)

    return Blend(_key(changes), compute, kept)


def blend(changes: Sequence[tuple[Change, float]], base: LiveBase, kept: Blends | None) -> Blend:
    """A live tensor as several skills make it together, each with its weight; computed when first used.

    Raises:
        ConflictError: what they do cannot be scaled or added.
    """
    if len(changes) > 1 or changes[0][1] != 1:
        _check_addable(changes, base)
    return Blend(_key(changes), lambda: _blended(changes, base), kept)


def _key(changes: Sequence[tuple[Change, float]]) -> Key:
    claims = [claim for change, weight in changes for step in change.steps for claim in _claims(step, weight)]
    return changes[0][0].name, tuple(sorted({(claim.digest, claim.weight) for claim in claims}))


def blend_bytes(change: Change) -> int:
    """Memory in bytes of the blended tensor."""
    tensor = change.steps[0].place.tensor
    return tensor.numel() * tensor.element_size()


def _holders(base: LiveBase) -> dict[object, list[Owner]]:
    """Who holds a tensor's memory, also as another object: accelerate keeps one for each name of a tied weight."""
    found: dict[object, list[Owner]] = {}
    for place in base.places.values():
        held = found.setdefault(_memory(place), [])
        held.extend(owner for owner in place.owners if owner not in held)
    return found


def _memory(place: Place) -> object:
    tensor = place.tensor
    return id(tensor) if tensor.is_meta else (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)


def _decode(skill: Skill, change: Change, base: LiveBase) -> None:
    step = change.steps[0]
    uses = {use_of(module, attribute) for module, attribute in change.owners}
    if step.place.part is None and len(change.steps) == 1 and None not in uses:
        change.part = _part(skill, step, {use for use in uses if use is not None})
        change.width = _width(change.part)
    if change.part is None:
        change.lone = blend([(change, 1.0)], base, None)
        change.lone.get(step.place.tensor)


def _part(skill: Skill, step: Step, uses: set[Use]) -> Part | None:
    """What modules add to their outputs; None if it is better to replace the weight: where it is exact, or dense."""
    claim = step.target.claims[0]
    factors = None if claim.entry.same_as is not None else skill.factors(claim.entry)
    if factors is not None:
        return Factors(factors)
    delta = claim.decode().delta
    if delta is None:
        return None
    # Rows can be used in every way, which matters for a head that is tied to the embedding.
    part = part_of(delta.reshape(claim.entry.shape), next(iter(uses)) if len(uses) == 1 else Use.LOOKUP)
    return None if isinstance(part, Dense) else part


def _width(part: Part | None) -> float:
    if not isinstance(part, Factors):
        return 0.0
    rows, columns = part.shape
    share = part.full * (rows + columns) / (rows * columns)
    return share if share > _NARROW else 0.0


def _claims(step: Step, weight: float) -> list[Claim]:
    return [claim._replace(weight=weight) for claim in step.target.claims]


def _check_addable(changes: Sequence[tuple[Change, float]], base: LiveBase) -> None:
    for step in (step for change, _ in changes for step in change.steps):
        info = base.tensors[step.reference]
        like = Tensor(info.dtype, (0,), np.empty(0, np.uint8))
        entries = [claim.entry for claim in step.target.claims]
        if unaddable(like, entries) is not None:
            # Says in its own words why not, or that all want the same.
            _blended(changes, base)
            return


def _blended(changes: Sequence[tuple[Change, float]], base: LiveBase) -> torch.Tensor:
    """The tensor as an install with these skills writes it, in the dtype of the live one."""
    whole = changes[0][0].steps[0].place
    by_place: dict[object, tuple[Place, str, list[Claim]]] = {}
    for change, weight in changes:
        for step in change.steps:
            found = by_place.setdefault(step.place.extent, (step.place, step.reference, []))
            found[2].extend(_claims(step, weight))
    values = [(place, _computed(place, reference, claims, base)) for place, reference, claims in by_place.values()]
    if len(values) == 1 and values[0][0].part is None:
        return values[0][1]
    blended = whole.tensor.detach().clone()
    for place, part in values:
        replace(place, tensor=blended).values.copy_(part)
    return blended


def _computed(place: Place, reference: str, claims: Sequence[Claim], base: LiveBase) -> torch.Tensor:
    dtype = DTYPES[place.tensor.dtype]
    return live(installed_tensor(base.read(reference), claims, dtype if dtype in FLOAT_DTYPES else None))
