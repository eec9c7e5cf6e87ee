"""Which skills claim which tensors of a base, and whether they may.

A skill is bound to the digests of the base tensors that it touches. Its entries are turned into targets, one for each
tensor that an install writes, with ties resolved: a tensor that is the same as another in a fine-tune takes part in
sums with that other one's delta, and a tensor that one skill untied follows the skills that left it tied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from skillpack.delta import Renaming
from skillpack.errors import ConflictError, DamagedSkillError, WrongBaseError, listing
from skillpack.skill import Decoded
from skillpack.summing import Claim, installed_tensor, refuse_scaling, widest
from skillpack.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skillpack.checkpoint import Checkpoint
    from skillpack.manifest import TensorEntry
    from skillpack.skill import Skill
    from skillpack.tensors import Tensor

Entries = dict[str, "TensorEntry"]

_WORKING_BYTES: Final = 12
"""For each element: a delta and a total in fp32, and what a codec needs."""


class Active(NamedTuple):
    """A skill that is or will be installed.

    Attributes:
        skill: the opened skill.
        weight: factor of its delta.
        label: the version as the user addressed it.
        forced: the check of the base is overridden.
    """

    skill: Skill
    weight: float = 1.0
    label: str = ""
    forced: bool = False


@dataclass(frozen=True)
class Target:
    """A tensor that an install writes because of skills.

    Attributes:
        name: as written.
        reference: the base tensor that it is relative to, if any.
        claims: what the skills want it to be.
    """

    name: str
    reference: str | None
    claims: tuple[Claim, ...]

    @property
    def form(self) -> tuple[str, tuple[int, ...]]:
        """Dtype and shape as written."""
        return widest([claim.entry.dtype for claim in self.claims]), self.claims[0].entry.shape

    @property
    def working_bytes(self) -> int:
        """Rough size in bytes of what has to be in memory to compute it."""
        dtype, shape = self.form
        return math.prod(shape) * (DTYPE_BYTES[dtype] + _WORKING_BYTES)

    def compute(self, base: Checkpoint) -> Tensor:
        """The tensor as written (see `skillpack.summing`)."""
        return installed_tensor(None if self.reference is None else base.read(self.reference), self.claims)


def check_base(active: Active, tensors: Checkpoint, digests: Mapping[str, str]) -> None:
    """Check that a skill was packed from this base, as far as it touches it.

    Args:
        active: the skill; if forced, tensors may have other values, but must be there with the same shape.
        tensors: the base.
        digests: base tensor -> digest.

    Raises:
        WrongBaseError: names every tensor that is missing, has another shape or differs.
    """
    manifest = active.skill.manifest
    needed = {entry.reference: entry.reference_digest for entry in manifest.tensors if entry.reference is not None}
    needed.update(manifest.gone)
    unfit = {name: "missing" for name in sorted(needed) if name not in tensors.tensors}
    for entry in manifest.tensors:
        info = tensors.tensors.get(entry.reference or "")
        if info is not None and not _fits(entry, info.shape):
            unfit[info.name] = f"shape {list(info.shape)}"
    differing = [name for name in sorted(needed) if name not in unfit and digests[name] != needed[name]]
    if not unfit and (active.forced or not differing):
        return
    wrong = [f"{name} ({why})" for name, why in unfit.items()] + [f"{name} (differs)" for name in differing]
    hint = "Install it on the base that it was packed from"
    raise WrongBaseError(
        f"Skill {active.skill.name} was packed from another base: {len(wrong)} of the {len(needed)} tensors that it "
        f"builds on are not the same: {listing(wrong)}",
        tensors=[*unfit, *differing],
        hint=f"{hint}." if unfit else f"{hint}, or override this check with --force.",
    )


def find_targets(skills: Sequence[Active], base: Checkpoint) -> dict[str, Target]:
    """What to write, by name of the written tensor.

    Raises:
        ConflictError: skills rename the base's tensors differently or one leaves out what another changes.
        DamagedSkillError: a skill contradicts itself.
    """
    renaming = common_renaming(skills)
    gone = gone_tensors(skills)
    namesakes = {renaming.apply(name): name for name in base.tensors}
    tables = [(active, {entry.name: entry for entry in active.skill.manifest.tensors}) for active in skills]
    targets = {}
    for name in sorted({name for _, entries in tables for name in entries}):
        claims = _claims(name, tables, base, namesakes)
        references = {claim.entry.reference for claim in claims.values()}
        if len(references) > 1:
            _conflict(name, claims.values(), "relate it to different tensors of the base")
        reference = references.pop()
        if namesakes.get(name) in gone:
            _conflict(name, claims.values(), "are to be installed with one that leaves it out")
        if name not in namesakes and reference is not None:
            claims = _claims(renaming.apply(reference), tables, base, namesakes) | claims
        targets[name] = Target(name, reference, tuple(claims[digest] for digest in sorted(claims)))
    return targets


def common_renaming(skills: Iterable[Active]) -> Renaming:
    """The one rule by which all skills rename the base's tensors.

    Raises:
        ConflictError: they have different rules.
    """
    rules = {active.skill.manifest.renaming: active.skill.name for active in skills}
    if len(rules) > 1:
        raise ConflictError(
            f"The skills {listing(sorted(rules.values()))} name the tensors of the model differently",
            hint="Install one of them; models of different classes do not go into one.",
        )
    return next(iter(rules), Renaming())


def gone_tensors(skills: Iterable[Active]) -> set[str]:
    """Names of the base's tensors that are left out.

    Raises:
        ConflictError: a skill that leaves some out has a weight other than 1.
    """
    gone = set()
    for active in skills:
        for name, _ in active.skill.manifest.gone:
            refuse_scaling(name, active.skill.name, active.weight, "the fine-tune does not have it")
            gone.add(name)
    return gone


def _fits(entry: TensorEntry, reference: tuple[int, ...]) -> bool:
    """Whether an entry can be relative to a tensor of this shape."""
    if entry.common_rows is None:
        return reference == entry.shape
    return len(reference) == len(entry.shape) and reference[1:] == entry.shape[1:] and reference[0] >= entry.common_rows


def _claims(
    name: str, skills: Iterable[tuple[Active, Entries]], base: Checkpoint, namesakes: Mapping[str, str]
) -> dict[str, Claim]:
    """Digest of a skill -> what it wants a tensor to be, for the skills that change it."""
    claims = {}
    for active, entries in skills:
        if name in entries:
            decode = partial(_decode, active, entries[name], entries, base, namesakes)
            skill = active.skill
            claims[skill.digest] = Claim(skill.digest, skill.name, active.weight, entries[name], decode)
    return claims


def _decode(
    active: Active, entry: TensorEntry, entries: Entries, base: Checkpoint, namesakes: Mapping[str, str]
) -> Decoded:
    skill, same_as = active.skill, entry.same_as or entry.name
    if same_as not in entries and same_as in namesakes:
        # The one that it is the same as did not change, so it has no entry of its own.
        return Decoded(base.read(namesakes[same_as]), None, None)
    coded = entries.get(same_as)
    if coded is None:
        raise DamagedSkillError(f"Skill {skill.name}: tensor {entry.name} is the same as one that is not there")
    if coded.same_as is not None or (coded.dtype, coded.shape) != (entry.dtype, entry.shape):
        raise DamagedSkillError(f"Skill {skill.name}: tensor {entry.name} cannot be the same as {coded.name}")
    try:
        return skill.decode(coded, None if coded.reference is None else base.read(coded.reference))
    except DamagedSkillError as error:
        if not active.forced:
            raise
        raise WrongBaseError(
            f"Skill {skill.name} cannot be forced onto this base: tensor {coded.name} is coded by its "
            "distance from the values of its own base",
            tensors=[coded.reference or coded.name],
            hint="Install it on the base that it was packed from, or pack it again without --exact.",
        ) from error


def _conflict(tensor: str, claims: Iterable[Claim], problem: str) -> NoReturn:
    names = listing(sorted(claim.skill for claim in claims))
    raise ConflictError(f"Skills that change tensor {tensor} ({names}) {problem}", hint="Install one of them.")
