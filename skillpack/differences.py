"""What differs between two states of a library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack.progress import silent
from skillpack.summaries import open_existing
from skillpack_store import NotFoundError, find_changes, number_versions, resolve_revision
from skillpack_store.names import choices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from skillpack.progress import Progress
    from skillpack.summaries import StoreLike
    from skillpack.tensor_differences import TensorDifference
    from skillpack_store import Descriptor, Repository, SkillChange, SkillVersion


@dataclass(frozen=True)
class SkillSide:
    """A skill in one of the two states.

    Attributes:
        digest: its identity.
        version: its number on the branch; None if it was never on its line of first parents.
        size: bytes on disk of everything that the digest covers.
    """

    digest: str
    version: int | None
    size: int


@dataclass(frozen=True)
class SkillDifference:
    """A skill that is not the same.

    Attributes:
        name: of the skill.
        kind: ``added``, ``removed`` or ``changed``.
        before: in the older state; None if it was added.
        after: in the newer state; None if it was removed.
        moved: Frobenius norm of the difference of the two deltas, relative to that of the older one, over all tensors
            that can be compared; None without `tensors`, or if there are none.
        overlap: cosine of the two deltas, over the same tensors; likewise.
        tensors: tensor by tensor, sorted by name; empty without `tensors`, and for skills that are only on one side.
    """

    name: str
    kind: str
    before: SkillSide | None
    after: SkillSide | None
    moved: float | None = None
    overlap: float | None = None
    tensors: tuple[TensorDifference, ...] = ()


@dataclass(frozen=True)
class LibraryDiff:
    """The difference of two states of a library.

    Attributes:
        older: digest of the one commit.
        newer: digest of the other.
        skills: what differs, sorted by name.
    """

    older: str
    newer: str
    skills: tuple[SkillDifference, ...]


def diff(
    older: str,
    newer: str | None = None,
    *,
    skills: Sequence[str] = (),
    tensors: bool = False,
    base: str | Path | None = None,
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> LibraryDiff:
    """Skills that were added, removed and changed between two commits.

    Args:
        older: one commit.
        newer: the other; by default the head of the branch.
        skills: names of the skills to look at; by default all.
        tensors: open the changed skills and compare their deltas tensor by tensor, one at a time.
        base: the model that the skills go on; needed to compare what comes back bit for bit.
        store: where.
        branch: branch of the library, which counts versions.
        progress: called during the work.

    Raises:
        NotFoundError: there is no such commit or skill.
        WrongBaseError: a changed skill belongs to another base than `base`.
        CorruptStoreError, DamagedSkillError: a skill is damaged.
    """
    repository = open_existing(store)
    sides = [repository.read_commit(resolve_revision(repository, side)) for side in (older, newer or f"heads/{branch}")]
    before, after = (commit.skills for commit in sides)
    names = [skills] if isinstance(skills, str) else skills
    for name in names:
        if name not in before and name not in after:
            hint = choices(name, {**before, **after}, "skill")
            raise NotFoundError(f"Neither commit has a skill {name!r}.", hint=hint)
    changes = [change for change in find_changes(before, after) if not names or change.name in names]
    numbered = number_versions(repository, repository.branches().get(branch), [change.name for change in changes])
    found = tuple(_difference(repository, change, numbered.get(change.name, {})) for change in changes)
    if tensors:
        from skillpack.tensor_differences import with_tensors

        found = with_tensors(repository, found, base, progress)
    return LibraryDiff(sides[0].digest, sides[1].digest, found)


def _difference(repository: Repository, change: SkillChange, versions: Mapping[str, SkillVersion]) -> SkillDifference:
    def side(skill: Descriptor | None) -> SkillSide | None:
        if skill is None:
            return None
        known = versions.get(skill.digest)
        return SkillSide(skill.digest, known and known.number, repository.skill_manifest(skill.digest).size)

    return SkillDifference(change.name, change.kind, side(change.before), side(change.after))
