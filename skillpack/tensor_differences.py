"""How far two versions of a skill are apart, tensor by tensor, from their decoded deltas.

At most two deltas of one tensor are in memory at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import WrongBaseError, listing
from skillpack.progress import Stage
from skillpack.skill import first_rows, open_skill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint
    from skillpack.differences import SkillDifference
    from skillpack.manifest import TensorEntry
    from skillpack.progress import Progress
    from skillpack.skill import Skill
    from skillpack.tensors import Doubles, Floats, Tensor
    from skillpack_store import Repository

_BLOCK: Final = 1 << 20
"""Elements that are summed at a time in fp64."""
_TIED: Final = "it is tied to a tensor that does not change"
_BASE: Final = "what comes back bit for bit cannot be compared without the base"
_SHAPE: Final = "they have different shapes"
_INTEGER: Final = "it does not hold floating-point numbers"


@dataclass(frozen=True)
class TensorDifference:
    """A tensor of two versions of a skill.

    Attributes:
        tensor: its name, as an install writes it.
        bytes_before: coded bytes in the older version; None if that does not change it.
        bytes_after: the same of the newer version.
        codecs_before: names of the codecs in the older version.
        codecs_after: the same of the newer version.
        moved: Frobenius norm of the difference of the two deltas, relative to that of the older one; 1 if the newer
            version does not change the tensor. None if there is no older delta, or for `reason`.
        overlap: cosine of the two deltas; None if one of them is zero, or for `reason`.
        reason: why the two cannot be compared; empty if they can.
    """

    tensor: str
    bytes_before: int | None
    bytes_after: int | None
    codecs_before: tuple[str, ...]
    codecs_after: tuple[str, ...]
    moved: float | None
    overlap: float | None
    reason: str = ""


class _Sums(NamedTuple):
    """Squared norms of the older delta, of the newer and of their difference, and their inner product."""

    older: float = 0.0
    newer: float = 0.0
    apart: float = 0.0
    inner: float = 0.0

    @property
    def moved(self) -> float | None:
        return math.sqrt(self.apart / self.older) if self.older else None

    @property
    def overlap(self) -> float | None:
        norm = math.sqrt(self.older) * math.sqrt(self.newer)
        return self.inner / norm if norm else None

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(*map(float.__add__, self, other))


class NotComparableError(Exception):
    """What a skill adds to a tensor cannot be said; the reason is the argument."""


def with_tensors(
    repository: Repository, skills: Sequence[SkillDifference], base: str | Path | None, progress: Progress
) -> tuple[SkillDifference, ...]:
    """Add what `diff` says tensor by tensor.

    Args:
        repository: where the skills are.
        skills: what differs.
        base: the model that the changed skills go on, if known.
        progress: told about the coded bytes that are read.

    Raises:
        WrongBaseError: a changed skill belongs to another base.
        CorruptStoreError, DamagedSkillError: a skill is damaged.
    """
    checkpoint = None if base is None else open_checkpoint(base)
    pairs = [(skill.before, skill.after) for skill in skills]
    total = sum(before.size + after.size for before, after in pairs if before is not None and after is not None)
    stage = Stage(progress, "comparing skills", total)
    result = []
    for skill in skills:
        if skill.before is None or skill.after is None:
            result.append(skill)
            continue
        older, newer = (open_skill(repository, side.digest, skill.name) for side in (skill.before, skill.after))
        tensors, sums = _compare(older, newer, checkpoint)
        stage.advance(skill.before.size + skill.after.size)
        result.append(replace(skill, tensors=tensors, moved=sums.moved, overlap=sums.overlap))
    return tuple(result)


def _compare(older: Skill, newer: Skill, base: Checkpoint | None) -> tuple[tuple[TensorDifference, ...], _Sums]:
    entries = [{entry.name: entry for entry in skill.manifest.tensors} for skill in (older, newer)]
    found, total = [], _Sums()
    for name in sorted(entries[0].keys() | entries[1].keys()):
        before, after = entries[0].get(name), entries[1].get(name)
        sums, reason = _Sums(), ""
        try:
            sums = _sums(delta_of(older, before, entries[0], base), delta_of(newer, after, entries[1], base))
        except NotComparableError as error:
            reason = str(error)
        total = total.plus(sums)
        found.append(
            TensorDifference(
                name,
                None if before is None else before.nbytes,
                None if after is None else after.nbytes,
                _codecs(before),
                _codecs(after),
                sums.moved,
                sums.overlap,
                reason,
            )
        )
    return tuple(found), total


def delta_of(
    skill: Skill, entry: TensorEntry | None, entries: dict[str, TensorEntry], base: Checkpoint | None
) -> Floats | None:
    """What a skill adds to the base's tensor, new rows included; a new tensor as a whole; None for nothing.

    Args:
        skill: opened.
        entry: of its manifest; None where it has none.
        entries: all of its entries, by name.
        base: the model that it goes on, if known; what comes back bit for bit needs it.

    Raises:
        NotComparableError: it is not known, or makes no sense.
        WrongBaseError: the base is another one.
        DamagedSkillError: the coded streams make no sense.
    """
    if entry is None:
        return None
    if entry.same_as is not None:
        if entry.same_as not in entries:
            raise NotComparableError(_TIED)
        return delta_of(skill, entries[entry.same_as], entries, base)
    reference = _reference(skill, entry, base)
    if reference is None and any(part.codec == "exact" for part in entry.parts):
        raise NotComparableError(_BASE)
    decoded = skill.decode(entry, reference)
    main = decoded.delta
    if main is None:
        value = _floats(decoded.value)
        if entry.reference is not None:
            # A raw part says what the tensor is, not what to add.
            if reference is None:
                raise NotComparableError(_BASE)
            value = value - first_rows(reference, value.shape).float32()
        main = value
    return main if decoded.rows is None else np.concatenate([main, _floats(decoded.rows)])


def _reference(skill: Skill, entry: TensorEntry, base: Checkpoint | None) -> Tensor | None:
    if entry.reference is None or base is None:
        return None
    tensor = base.read(entry.reference) if entry.reference in base.tensors else None
    if tensor is None or tensor.digest() != entry.reference_digest:
        raise WrongBaseError(
            f"The skill {skill.name} was packed from another base: {listing([entry.reference])} differs",
            tensors=[entry.reference],
            hint="Give the base that it was packed from.",
        )
    return tensor


def _floats(tensor: Tensor | None) -> Floats:
    if tensor is None or not tensor.is_float:
        raise NotComparableError(_INTEGER)
    return tensor.float32()


def _sums(older: Floats | None, newer: Floats | None) -> _Sums:
    if older is not None and newer is not None and older.shape != newer.shape:
        raise NotComparableError(_SHAPE)
    size = next(delta.size for delta in (older, newer) if delta is not None)
    total = _Sums()
    for start in range(0, size, _BLOCK):
        first, second = (_block(delta, start, size) for delta in (older, newer))
        apart = second - first
        total = total.plus(_Sums(*(float(a @ b) for a, b in _pairs(first, second, apart))))
    return total


def _pairs(first: Doubles, second: Doubles, apart: Doubles) -> Iterable[tuple[Doubles, Doubles]]:
    return (first, first), (second, second), (apart, apart), (first, second)


def _block(delta: Floats | None, start: int, size: int) -> Doubles:
    if delta is None:
        return np.zeros(min(_BLOCK, size - start))
    return delta.reshape(-1)[start : start + _BLOCK].astype(np.float64)


def _codecs(entry: TensorEntry | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    return ("tied",) if entry.same_as is not None else tuple(sorted({part.codec for part in entry.parts}))
