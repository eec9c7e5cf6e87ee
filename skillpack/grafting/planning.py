"""What a set of skills makes of a live model: validated before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from skillpack.errors import ConflictError
from skillpack.grafting.live_tensors import DTYPES
from skillpack.installing.claims import Active, find_targets, gone_tensors
from skillpack.summing import installed_tensor
from skillpack.tensors import FLOAT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skillpack.grafting.base import LiveBase
    from skillpack.grafting.originals import Extent
    from skillpack.grafting.places import Place
    from skillpack.installing.claims import Target
    from skillpack.tensors import Tensor

_ON_DISK = "Install it on the checkpoint folder (skillpack install) and load that."


class Content(NamedTuple):
    """What is at a place, told by identities: equal for equal bytes.

    Attributes:
        name: of the tensor.
        skills: digest and weight of each skill that claims it, sorted.
    """

    name: str
    skills: tuple[tuple[str, float], ...]


@dataclass(frozen=True, eq=False)
class Step:
    """What is to be at one place.

    Attributes:
        place: where.
        reference: name of the base's tensor that is there without skills.
        target: what skills make of it.
        content: the same as identities.
    """

    place: Place
    reference: str
    target: Target
    content: Content

    def compute(self, base: LiveBase) -> Tensor:
        """The values in the live tensor's dtype: summed in fp32 and cast once, see `skillpack.summing`."""
        reference = None if self.target.reference is None else base.read(self.target.reference)
        dtype = DTYPES[self.place.tensor.dtype]
        return installed_tensor(reference, self.target.claims, dtype if dtype in FLOAT_DTYPES else None)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be on a live model.

    Attributes:
        active: the skills, sorted by name.
        steps: what is to be at each place that is not to be as in the base.
    """

    active: tuple[Active, ...]
    steps: Mapping[Extent, Step]


def make_plan(active: Iterable[Active], base: LiveBase) -> Plan:
    """Check that skills go on a live model and with one another, and say what they make of it.

    Raises:
        WrongBaseError: a skill was packed from another base.
        ConflictError: skills contradict one another, or ask for what a live model cannot take: a tensor that it does
            not have, another number of rows, another value for each of two tied weights.
        DamagedSkillError: a skill contradicts itself.
    """
    skills = tuple(sorted(active, key=lambda each: each.skill.name))
    for each in skills:
        base.check(each.skill)
    targets = find_targets(skills, base)
    grouped: dict[Extent, list[Target]] = {}
    for target in targets.values():
        grouped.setdefault(_place(target, base, skills).extent, []).append(target)
    _check_gone(skills, base, grouped)
    _check_tied(skills, base, grouped, targets)
    steps = {}
    for extent, group in grouped.items():
        step = _step(group[0], base, skills)
        for other in group[1:]:
            _check_same(step, _step(other, base, skills), base)
        steps[extent] = step
    return Plan(skills, steps)


def _step(target: Target, base: LiveBase, skills: Sequence[Active]) -> Step:
    content = Content(target.name, tuple((claim.digest, claim.weight) for claim in target.claims))
    place = _place(target, base, skills)
    return Step(place, str(target.reference), target, content)


def _place(target: Target, base: LiveBase, skills: Sequence[Active]) -> Place:
    """Where a target is: where the base's tensor is that it is relative to."""
    if target.reference is None:
        _refuse(target, skills, f"adds tensor {target.name}, which the base does not have")
    place, (dtype, shape) = base.places[target.reference], target.form
    if target.name in base.places and base.places[target.name].extent != place.extent:
        _refuse(target, skills, f"relates {target.name} to {target.reference}, which is another tensor here")
    if shape != place.shape or any(claim.entry.common_rows is not None for claim in target.claims):
        rows = f"{list(shape)}, and the live model's has {list(place.shape)}"
        _refuse(target, skills, f"gives tensor {target.name} the shape {rows}")
    live = DTYPES[place.tensor.dtype]
    if live != dtype and not {live, dtype} <= FLOAT_DTYPES:
        _refuse(target, skills, f"makes tensor {target.name} {dtype}, and the live model's is {live}")
    return place


def _check_gone(skills: Sequence[Active], base: LiveBase, grouped: Mapping[Extent, object]) -> None:
    """A tensor that a skill leaves out must be a tied one, of which another name stays."""
    gone = gone_tensors(skills)
    stays = {base.places[name].extent for name in base.tensors if name not in gone and name in base.places}
    for name in sorted(gone):
        if base.places[name].extent not in stays | grouped.keys():
            raise ConflictError(f"A skill leaves out tensor {name}, which the live model computes with", hint=_ON_DISK)


def _check_tied(
    skills: Sequence[Active], base: LiveBase, grouped: Mapping[Extent, list[Target]], targets: Mapping[str, Target]
) -> None:
    """Where a skill changes one of the names of a tied weight, no other name may stay as it is."""
    gone = gone_tensors(skills)
    renaming = skills[0].skill.manifest.renaming if skills else None
    for name in base.tensors:
        group = grouped.get(base.places[name].extent) if name in base.places and name not in gone else None
        if group is not None and renaming is not None and renaming.apply(name) not in targets:
            _refuse(group[0], skills, f"unties {group[0].name} from {name}, which are one weight in the live model")


def _check_same(one: Step, other: Step, base: LiveBase) -> None:
    """Two names of one live tensor must have the same values."""
    pairs = zip(one.target.claims, other.target.claims, strict=False)
    if len(one.target.claims) == len(other.target.claims) and all(
        left[:3:2] == right[:3:2] and one.target.name == right.entry.same_as for left, right in pairs
    ):
        return
    if one.compute(base).digest() != other.compute(base).digest():
        names = f"{one.target.name} and {other.target.name}"
        raise ConflictError(f"Skills give {names} different values, and they are one weight in the live model")


def _refuse(target: Target, skills: Sequence[Active], what: str) -> NoReturn:
    claimed = {claim.digest for claim in target.claims}
    name = next((each.skill.name for each in skills if each.skill.digest in claimed), "")
    raise ConflictError(f"Skill {name} {what}", hint=_ON_DISK)
