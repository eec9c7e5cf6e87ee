"""Will skills clash? Their deltas compared pair by pair, straight from the packs, one tensor at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from skillpack.checkpoint import open_checkpoint
from skillpack.comparing.changes import Changes
from skillpack.comparing.measures import Figures, Sums, add_up, compare_changes, shared_energy
from skillpack.comparing.opening import check_one_base, find_all
from skillpack.comparing.verdicts import Verdict, judge
from skillpack.errors import UsageError
from skillpack.manifest import block_of
from skillpack.progress import Progress, Stage, silent
from skillpack.summaries import open_existing
from skillpack.tensor_differences import NotComparableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from skillpack.comparing.changes import Change
    from skillpack.comparing.opening import Compared
    from skillpack.summaries import StoreLike

RANK: Final = 8
"""Strongest directions of a matrix whose overlap is measured, unless another number is asked for."""
Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Place:
    """A tensor or a block of layers, as a pair of skills changes it.

    Attributes:
        name: of the base's tensor, or of the block, such as ``model.layers.3``.
        figures: how the two stand to each other there.
        energies: squared norms of the first and the second skill's deltas there.
    """

    name: str
    figures: Figures
    energies: tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two skills.

    Attributes:
        first: label of the one.
        second: label of the other.
        total: how they stand to each other in all.
        shared_energy: how much of their energy is in the same tensors, 0 to 1.
        norm_ratio: norm of the larger delta over that of the smaller; None if one is zero.
        verdict: what that means, in plain words.
        layers: block by block, in the order of the model.
        tensors: tensor by tensor, in the order of their names; those that neither changes are left out.
    """

    first: str
    second: str
    total: Figures
    shared_energy: float
    norm_ratio: float | None
    verdict: Verdict
    layers: tuple[Place, ...]
    tensors: tuple[Place, ...]


@dataclass(frozen=True)
class CompareReport:
    """How skills stand to one another.

    Attributes:
        names: what the skills are called here, in the order in which they were named.
        digests: their identities.
        rank: how many directions of a matrix were compared.
        pairs: every two of them.
        left_out: tensor -> why it could not be compared; its figures are in no sum.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    rank: int
    pairs: tuple[Pair, ...]
    left_out: dict[str, str]

    @property
    def cosine(self) -> Matrix:
        """Of all skills with all; 1 with themselves."""
        return self.matrix(lambda pair: pair.total.cosine, 1.0)

    @property
    def sign_conflict(self) -> Matrix:
        """Weighted, of all skills with all; 0 with themselves."""
        return self.matrix(lambda pair: pair.total.weighted_conflict, 0.0)

    @property
    def overlap(self) -> Matrix:
        """Mean of both overlaps of directions, of all skills with all; 1 with themselves."""
        return self.matrix(lambda pair: _mean(pair.total), 1.0)

    def matrix(self, figure: Callable[[Pair], float | None], own: float) -> Matrix:
        """A figure of each pair as a symmetric matrix.

        Args:
            figure: of a pair.
            own: of a skill with itself.
        """
        found = {frozenset((pair.first, pair.second)): figure(pair) for pair in self.pairs}
        return tuple(
            tuple(own if one == other else found[frozenset((one, other))] for other in self.names) for one in self.names
        )

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values, without single layers and tensors."""
        return {
            "names": list(self.names),
            "digests": list(self.digests),
            "rank": self.rank,
            "cosine": [list(row) for row in self.cosine],
            "sign_conflict": [list(row) for row in self.sign_conflict],
            "overlap": [list(row) for row in self.overlap],
        }


def compare(
    addresses: Sequence[str] = (),
    *,
    rank: int = RANK,
    base: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> CompareReport:
    """Compare the deltas of skills, pair by pair: will they clash when they are summed?

    Every skill is decoded one tensor at a time; products of thin factors are formed a few rows at a time.

    Args:
        addresses: two or more, each with an optional weight: ``math``, ``math@3=0.5``; by default all skills of the
            branch.
        rank: how many of the strongest directions of each matrix to compare.
        base: folder, ``.safetensors`` file or hub id of the model that the skills go on; needed for tensors that come
            back bit for bit, which are left out without it.
        store: where the skills are.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        NotFoundError: there is no such skill.
        UsageError: there are fewer than two, one is named twice, or a weight or the rank makes no sense.
        WrongBaseError: they go on different bases, or on another one than `base`.
        CorruptStoreError, DamagedSkillError: a skill is damaged.

    Example:
        >>> compare(["math", "code"]).pairs[0].verdict.text  # doctest: +SKIP
        'they have learned something in common; a sum keeps it, and overdoes that part'
    """
    if rank < 1:
        raise UsageError(f"{rank} directions cannot be compared", hint="Compare 1 or more; 8 are usual.")
    repository = open_existing(store)
    found = find_all(repository, addresses, branch)
    if len(found) < 2:
        raise UsageError("It takes two skills to compare", hint="Example: skillpack compare math code")
    skills = [one.open(repository) for one in found]
    check_one_base(skills)
    checkpoint = None if base is None else open_checkpoint(base)
    changes = [Changes(one.skill, checkpoint, one.weight) for one in skills]
    sums, left_out = _all_sums(changes, rank, Stage(progress, "comparing skills", sum(map(_coded, skills))))
    return CompareReport(
        names=tuple(one.label for one in skills),
        digests=tuple(one.skill.digest for one in skills),
        rank=rank,
        pairs=tuple(_pair(skills, pair, sums[pair]) for pair in combinations(range(len(skills)), 2)),
        left_out=left_out,
    )


_PairSums = dict[tuple[int, int], dict[str, Sums]]


def _all_sums(changes: Sequence[Changes], rank: int, stage: Stage) -> tuple[_PairSums, dict[str, str]]:
    result: _PairSums = {pair: {} for pair in combinations(range(len(changes)), 2)}
    left_out = {}
    for key in sorted({key for skill in changes for key in skill.entries}):
        try:
            for pair, sums in compare_changes(_read(changes, key), rank).items():
                result[pair][key] = sums
        except NotComparableError as error:
            left_out[key] = str(error)
        stage.advance(sum(skill.entries[key].nbytes for skill in changes if key in skill.entries))
    return result, left_out


def _read(changes: Sequence[Changes], key: str) -> list[Change | None]:
    found = [skill.read(key) for skill in changes]
    if len({change.shape for change in found if change is not None}) > 1:
        raise NotComparableError("the skills give it different shapes")
    return found


def _pair(skills: Sequence[Compared], pair: tuple[int, int], sums: dict[str, Sums]) -> Pair:
    total = add_up(sums.values())
    energies = [{name: own.first for name, own in sums.items()}, {name: own.second for name, own in sums.items()}]
    names, norms = (skills[pair[0]].label, skills[pair[1]].label), (total.first**0.5, total.second**0.5)
    shared = shared_energy(*energies)
    blocks: dict[str, list[Sums]] = defaultdict(list)
    for name, own in sums.items():
        blocks[block_of(name)].append(own)
    return Pair(
        first=names[0],
        second=names[1],
        total=total.figures(),
        shared_energy=shared,
        norm_ratio=max(norms) / min(norms) if min(norms) else None,
        verdict=judge(total.figures(), norms, names),
        layers=_places((name, add_up(parts)) for name, parts in sorted(blocks.items(), key=_in_order)),
        tensors=_places(sums.items()),
    )


def _places(sums: Iterable[tuple[str, Sums]]) -> tuple[Place, ...]:
    return tuple(Place(name, own.figures(), (own.first, own.second)) for name, own in sums)


def _in_order(block: tuple[str, object]) -> tuple[object, ...]:
    """Blocks by their numbers, so that the tenth comes after the second."""
    stem, _, number = block[0].rpartition(".")
    return (stem, int(number)) if number.isdecimal() else (block[0], -1)


def _coded(one: Compared) -> int:
    return sum(entry.nbytes for entry in one.skill.manifest.tensors)


def _mean(figures: Figures) -> float | None:
    if figures.left_overlap is None or figures.right_overlap is None:
        return None
    return (figures.left_overlap + figures.right_overlap) / 2
