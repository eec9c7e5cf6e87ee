"""Which skills of a library belong together: model-based clustering, and versions of one fine-tune.

Skills are grouped by nothing but their weights, as Ostapenko et al. 2024 group LoRA adapters
(https://arxiv.org/abs/2405.11157, section 3.1). They reduce the weights by a singular value decomposition and run
k-means with a number of groups that is given; here the deltas are reduced by random projections, which need no look at
the other skills and can thus be remembered skill by skill, and groups are joined by average linkage of their cosines,
so that their number need not be known.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from skillpack.checkpoint import open_checkpoint
from skillpack.comparing.opening import find_all
from skillpack.comparing.profiles import Profiles, similarity
from skillpack.errors import UsageError
from skillpack.progress import Progress, Stage, silent
from skillpack.summaries import open_existing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.comparing.opening import Found
    from skillpack.comparing.profiles import Profile
    from skillpack.summaries import StoreLike
    from skillpack.tensors import Doubles
    from skillpack_store import Repository

GROUPED: Final = 0.1
"""Mean cosine from which on skills are one group; unrelated tasks give nearly orthogonal deltas, see docs/report.md."""
DUPLICATE: Final = 0.25
"""Cosine from which on two skills are called near-duplicates: the same data with another seed gives 0.34."""
_APART: Final = 3.0
"""Distance of skills of different bases: more than any distance on one base, which is at most 2."""


@dataclass(frozen=True)
class Group:
    """Skills that belong together.

    Attributes:
        names: what they are called here, sorted.
        base: fingerprint of the base that all of them go on.
        cosine: mean cosine of every two of them; None for a lone one.
    """

    names: tuple[str, ...]
    base: str
    cosine: float | None


@dataclass(frozen=True)
class Duplicate:
    """Two skills that are nearly one.

    Attributes:
        first: what the one is called here.
        second: what the other is called here.
        cosine: of their deltas.
    """

    first: str
    second: str
    cosine: float


@dataclass(frozen=True)
class ClusterReport:
    """A library by what its skills do to the weights.

    Attributes:
        names: what the skills are called here.
        digests: their identities.
        cosine: estimated, of all with all; None for different bases, and where nothing is known.
        groups: the largest first; every skill that could be placed is in one.
        duplicates: pairs of near-duplicates, the most similar first.
        left_out: skill -> why it could not be placed.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    cosine: tuple[tuple[float | None, ...], ...]
    groups: tuple[Group, ...]
    duplicates: tuple[Duplicate, ...]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Profiled:
    """A skill of which enough is known to compare it.

    Attributes:
        label: what it is called here.
        digest: its identity.
        base: fingerprint of its base.
        profile: of its deltas.
    """

    label: str
    digest: str
    base: str
    profile: Profile


def cluster(
    addresses: Sequence[str] = (),
    *,
    groups: int | None = None,
    threshold: float = GROUPED,
    base: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> ClusterReport:
    """Group the skills of a library by the similarity of their deltas, and find near-duplicates.

    What is found out about a skill is remembered in the store, so that only new skills are decoded.

    Args:
        addresses: which skills; by default all of the branch. Weights make no difference.
        groups: how many groups to make; by default as many as `threshold` leaves.
        threshold: mean cosine down to which groups are joined.
        base: the model that the skills go on, as in `compare`; skills that come back bit for bit need it.
        store: where the skills are.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        NotFoundError: there is no such skill.
        UsageError: a version is named twice, or a number makes no sense.
        WrongBaseError: a skill goes on another base than `base`.
        CorruptStoreError, DamagedSkillError: a skill is damaged.

    Example:
        >>> [group.names for group in cluster().groups]  # doctest: +SKIP
        [('french', 'spanish'), ('math',)]
    """
    if not -1 <= threshold <= 1:
        raise UsageError(f"{threshold:g} is no cosine", hint="Give a number between -1 and 1, such as 0.1.")
    repository = open_existing(store)
    skills = profile_all(repository, find_all(repository, addresses, branch), base, progress)
    cosine = cosines(skills)
    placed = [index for index, row in enumerate(cosine) if row[index] is not None]
    if groups is not None:
        _check_number(groups, len(placed), len({skills[index].base for index in placed}))
    return ClusterReport(
        names=tuple(skill.label for skill in skills),
        digests=tuple(skill.digest for skill in skills),
        cosine=cosine,
        groups=_groups(skills, cosine, placed, threshold, groups),
        duplicates=_duplicates(skills, cosine),
        left_out={skills[index].label: _why(skills[index]) for index in range(len(skills)) if index not in placed},
    )


def profile_all(
    repository: Repository, found: Sequence[Found], base: str | Path | None, progress: Progress
) -> list[Profiled]:
    """The profiles of skills, from the cache or by decoding them; raises as `cluster` does."""
    profiles = Profiles(repository, None if base is None else open_checkpoint(base))
    sizes = {one.digest: repository.skill_manifest(one.digest).size for one in found}
    stage = Stage(progress, "looking at skills", sum(sizes.values()))
    result = []
    for one in found:
        skill = one.open(repository).skill
        result.append(Profiled(one.label, one.digest, skill.manifest.base_fingerprint, profiles.get(skill)))
        stage.advance(sizes[one.digest])
    profiles.prune()
    return result


def cosines(skills: Sequence[Profiled]) -> tuple[tuple[float | None, ...], ...]:
    """Estimated cosines of all with all; None for different bases, and where nothing is known."""
    size = len(skills)
    found: list[list[float | None]] = [[None] * size for _ in skills]
    for index, skill in enumerate(skills):
        found[index][index] = similarity(skill.profile, skill.profile)
    for one, other in combinations(range(size), 2):
        if skills[one].base == skills[other].base:
            found[one][other] = found[other][one] = similarity(skills[one].profile, skills[other].profile)
    return tuple(map(tuple, found))


def _groups(
    skills: Sequence[Profiled],
    cosine: Sequence[Sequence[float | None]],
    placed: Sequence[int],
    threshold: float,
    number: int | None,
) -> tuple[Group, ...]:
    numbers = _linked(_distances(cosine, placed), threshold, number) if len(placed) > 1 else [1] * len(placed)
    members: dict[int, list[int]] = {}
    for index, own in zip(placed, numbers, strict=True):
        members.setdefault(own, []).append(index)
    groups = [
        Group(tuple(sorted(skills[index].label for index in found)), skills[found[0]].base, _mean(cosine, found))
        for found in members.values()
    ]
    return tuple(sorted(groups, key=lambda group: (-len(group.names), group.names)))


def _distances(cosine: Sequence[Sequence[float | None]], placed: Sequence[int]) -> Doubles:
    """Of every two skills, in the order that scipy wants."""
    found = (cosine[one][other] for one, other in combinations(placed, 2))
    return np.array([_APART if value is None else 1 - value for value in found])


def _linked(distances: Doubles, threshold: float, number: int | None) -> list[int]:
    """The number of each skill's group."""
    from scipy.cluster.hierarchy import fcluster, linkage

    tree = linkage(distances, "average")
    found = fcluster(tree, 1 - threshold, "distance") if number is None else fcluster(tree, number, "maxclust")
    return [int(own) for own in found]


def _mean(cosine: Sequence[Sequence[float | None]], members: Sequence[int]) -> float | None:
    values = [value for pair in combinations(members, 2) if (value := cosine[pair[0]][pair[1]]) is not None]
    return sum(values) / len(values) if values else None


def _duplicates(skills: Sequence[Profiled], cosine: Sequence[Sequence[float | None]]) -> tuple[Duplicate, ...]:
    pairs = []
    for one, other in combinations(range(len(skills)), 2):
        value = cosine[one][other]
        if value is not None and value >= DUPLICATE:
            pairs.append(Duplicate(skills[one].label, skills[other].label, value))
    return tuple(sorted(pairs, key=lambda pair: (-pair.cosine, pair.first, pair.second)))


def _why(skill: Profiled) -> str:
    return next(iter(skill.profile.left_out.values()), "it changes no number")


def _check_number(groups: int, skills: int, bases: int) -> None:
    if not bases <= groups <= max(1, skills):
        raise UsageError(
            f"{skills} skills on {bases} bases cannot make {groups} groups",
            hint=f"Ask for {bases} to {max(1, skills)}: skills of different bases are never in one group.",
        )
