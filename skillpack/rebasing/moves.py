"""What becomes of each tensor of a skill on the new base, or why it cannot move there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from skillpack.delta import is_shared_matrix
from skillpack.errors import ConflictError, UsageError, WrongBaseError, listing
from skillpack.tensors import FLOAT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.checkpoint import TensorInfo
    from skillpack.manifest import TensorEntry
    from skillpack.rebasing.bases import Bases
    from skillpack.skill import Skill

DELTAS: Final = frozenset({"direct", "lowrank", "lowrank+direct", "sparse", "sum", "tucker"})
"""Codecs whose streams say what to add, whatever the base has."""
VALUES: Final = frozenset({"exact", "raw"})
"""Codecs whose streams say what the tensor is, on the base that it was packed from."""
NEEDS_OLD: Final = "Give the base that the skill was packed from: --from OLD_BASE"


@dataclass(frozen=True)
class Move:
    """One tensor of a skill.

    Attributes:
        before: its entry.
        after: its entry on the new base; parts are those of `before` until it is coded anew.
        changed: the new base has another tensor there than the old one, or none had any.
        recoded: it has to be coded anew, since its streams are about the old base's values.
    """

    before: TensorEntry
    after: TensorEntry
    changed: bool
    recoded: bool


def plan_moves(skill: Skill, bases: Bases) -> list[Move]:
    """How each tensor moves, sorted by the name that it will have.

    Raises:
        ConflictError: the new base changed what the skill changes too, and the two cannot be added.
        UsageError: the old base has to be known.
        WrongBaseError: the new base lacks tensors, or has others; names all of them and why.
    """
    _refuse_unfit(skill, bases)
    moves = [_move(entry, bases) for entry in skill.manifest.tensors]
    if bases.old is None and (needy := [move.before.name for move in moves if move.recoded]):
        raise UsageError(
            f"{len(needy)} tensors are coded by their distance from the values of the old base, and the new base has "
            f"others there: {listing(needy)}",
            hint=NEEDS_OLD,
        )
    _refuse_whole_conflicts(skill, bases, moves)
    return sorted(moves, key=lambda move: move.after.name)


def moved_gone(skill: Skill, bases: Bases) -> tuple[tuple[str, str], ...]:
    """What an install leaves out of the new base; what it does not have need not be left out."""
    names = [bases.naming.bases.apply(name) for name, _ in skill.manifest.gone]
    return tuple((name, bases.digests[name]) for name in sorted(names) if name in bases.digests)


def remarks(bases: Bases) -> list[str]:
    """What else differs between the two bases' lists of tensors, for people."""
    if bases.old is None:
        return []
    expected = {bases.naming.bases.apply(name) for name in bases.old.tensors}
    found = []
    if added := sorted(bases.new.tensors.keys() - expected):
        found.append(f"the new base has tensors that the old one has not, and keeps them: {listing(added)}")
    if lost := sorted(expected - bases.new.tensors.keys()):
        found.append(f"the new base lacks tensors that the skill does not touch: {listing(lost)}")
    return found


def _refuse_unfit(skill: Skill, bases: Bases) -> None:
    unfit = {}
    for entry in skill.manifest.tensors:
        if entry.reference is not None:
            name = bases.naming.bases.apply(entry.reference)
            problem = _problem(entry, bases, bases.new.tensors.get(name))
            if problem is not None:
                unfit[name] = problem
    unfit |= dict.fromkeys(_untied(skill, bases), "tied to the embedding in the old base")
    unfit |= _parted(skill, bases)
    if unfit:
        raise WrongBaseError(
            f"Skill {skill.name} cannot move to this base: "
            + listing(f"{name} ({problem})" for name, problem in sorted(unfit.items())),
            tensors=sorted(unfit),
            hint="A skill moves to a base with the same tensors in the same shapes. For another one, fine-tune again.",
        )


def _problem(entry: TensorEntry, bases: Bases, info: TensorInfo | None) -> str | None:
    """Why an entry cannot be relative to a tensor of the new base."""
    if info is None:
        return "missing"
    if bases.digests[info.name] == entry.reference_digest:
        return None
    wanted = _reference_shape(entry, bases)
    if wanted is None:
        return f"rows were cut off, and how many there were is not known; {NEEDS_OLD[0].lower()}{NEEDS_OLD[1:]}"
    if info.shape != wanted:
        rows = len(info.shape) == len(wanted) > 0 and info.shape[1:] == wanted[1:]
        what = "other rows" if rows else "another shape"
        return f"{what}: {list(wanted)} in the old base, {list(info.shape)} in the new one"
    if (entry.dtype in FLOAT_DTYPES) != (info.dtype in FLOAT_DTYPES):
        return f"{info.dtype}, where the skill has {entry.dtype}"
    return _dtype_problem(entry, bases, info)


def _dtype_problem(entry: TensorEntry, bases: Bases, info: TensorInfo) -> str | None:
    if entry.dtype == info.dtype:
        return None
    if entry.dtype not in FLOAT_DTYPES:
        return f"{info.dtype}, where the skill has {entry.dtype}"
    if bases.old is None:
        return f"{info.dtype}, where the skill has {entry.dtype}; {NEEDS_OLD[0].lower()}{NEEDS_OLD[1:]}"
    if entry.rows is not None and _dtype(entry, bases) != entry.dtype:
        return f"{info.dtype}, where the skill adds rows of {entry.dtype}"
    return None


def _reference_shape(entry: TensorEntry, bases: Bases) -> tuple[int, ...] | None:
    """The shape that the old base's tensor has; None where it cannot be known."""
    if bases.old is not None:
        return bases.old.tensors[str(entry.reference)].shape
    if entry.common_rows is None:
        return entry.shape
    return (entry.common_rows, *entry.shape[1:]) if entry.common_rows < entry.shape[0] else None


def _untied(skill: Skill, bases: Bases) -> list[str]:
    """Heads or embeddings that only the new base has for itself, where the skill changes the shared matrix."""
    touched = {entry.reference for entry in skill.manifest.tensors if entry.reference is not None}
    if bases.old is None or not any(map(is_shared_matrix, touched)):
        return []
    known = {bases.naming.bases.apply(name) for name in bases.old.tensors}
    return [name for name in bases.new.tensors if name not in known and is_shared_matrix(name)]


def _parted(skill: Skill, bases: Bases) -> dict[str, str]:
    """Tensors that were equal in the old base and have one coded delta, and that the new base tells apart."""
    entries = {entry.name: entry for entry in skill.manifest.tensors}
    found = {}
    for entry in entries.values():
        twin = entries.get(entry.same_as or "")
        if twin is not None and entry.reference is not None and twin.reference is not None:
            names = [bases.naming.bases.apply(name) for name in (entry.reference, twin.reference)]
            if len({bases.digests.get(name) for name in names}) > 1:
                found[names[0]] = f"no longer equal to {names[1]}"
    return found


def _move(entry: TensorEntry, bases: Bases) -> Move:
    rules = bases.naming
    after = replace(
        entry,
        name=rules.entries.apply(entry.name),
        same_as=None if entry.same_as is None else rules.entries.apply(entry.same_as),
    )
    if entry.reference is None:
        return Move(entry, after, changed=False, recoded=False)
    reference = rules.bases.apply(entry.reference)
    digest = bases.digests[reference]
    changed = digest != entry.reference_digest
    after = replace(after, reference=reference, reference_digest=digest)
    if changed:
        after = replace(after, dtype=_dtype(entry, bases))
    relative = entry.main is not None and entry.main.codec not in DELTAS and entry.dtype in FLOAT_DTYPES
    return Move(entry, after, changed=changed, recoded=changed and relative)


def _dtype(entry: TensorEntry, bases: Bases) -> str:
    """A tensor that had its base's dtype gets the new base's; one that had a dtype of its own keeps it."""
    reference = str(entry.reference)
    if bases.old is not None and bases.old.tensors[reference].dtype == entry.dtype:
        return bases.new.tensors[bases.naming.bases.apply(reference)].dtype
    return entry.dtype


def _refuse_whole_conflicts(skill: Skill, bases: Bases, moves: Sequence[Move]) -> None:
    """Refuse tensors that cannot be added, changed by the skill and by the new base to different content."""
    unknown = sorted({part.codec for move in moves if move.changed for part in move.before.parts} - DELTAS - VALUES)
    if unknown:
        raise UsageError(
            f"Skill {skill.name} uses the codec {listing(unknown)}, of which it is not known whether its streams hold "
            "on another base",
            hint="Pack the skill again with one of skillpack's own codecs.",
        )
    clashing = [move.before.name for move in moves if move.changed and _clashes(skill, bases, move)]
    if clashing:
        raise ConflictError(
            f"Skill {skill.name} and the new base both changed {listing(clashing)}, which cannot be added, because "
            "its values are not floating-point numbers",
            hint="Fine-tune again on the new base.",
        )


def _clashes(skill: Skill, bases: Bases, move: Move) -> bool:
    if move.before.main is None or move.before.dtype in FLOAT_DTYPES or move.before.reference is None:
        return False
    found = skill.decode(move.before, None).value
    return found is None or found.digest() != bases.digests[str(move.after.reference)]
