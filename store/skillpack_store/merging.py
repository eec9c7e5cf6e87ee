"""Merging: the changes of two lines of history in one library.

Three-way, skill by skill, against the merge base: the best common ancestor, one that no other common ancestor follows.
Histories that cross have several of these; about a skill that they disagree on, nothing is known to be older, so both
sides must agree on it or it is a conflict. Histories that have nothing in common are merged against an empty library.

A branch is moved without a commit (fast-forward) only where its head is on the line of first parents of the other
side. Otherwise the numbers of its versions would change, which count distinct skills along that line.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from skillpack_store.changes import SkillChange, find_changes
from skillpack_store.commits import append_commit, require_head
from skillpack_store.errors import MergeConflictError, NotFoundError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref, retry_busy
from skillpack_store.revisions import resolve_revision
from skillpack_store.securing import secure_commit, secure_skill
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skillpack_store.descriptors import Descriptor
    from skillpack_store.documents import Commit
    from skillpack_store.repository import Repository

__all__ = ["Merge", "Resolution", "best_common_ancestors", "is_ancestor", "merge_revision", "merge_skills"]

Side = Literal["ours", "theirs"]
Skills = dict[str, "Descriptor"]


class Resolution(NamedTuple):
    """What to do about conflicts.

    Attributes:
        side: Whose skill to take in every conflict; None to give up.
        take: Skill -> ``ours``, ``theirs`` or a revision, whose skill is taken whether there is a conflict or not.
    """

    side: Side | None = None
    take: Mapping[str, str] = {}


@dataclass(frozen=True)
class Merge:
    """What a merge did, or would do.

    Attributes:
        kind: ``up to date`` if there was nothing to do, ``fast-forward`` if the branch was only moved.
        commit: What the branch names then; None for a dry run that is not up to date.
        bases: Digests of the best common ancestors, sorted.
        changes: What became of our side's skills.
        resolved: Skill -> what the conflict was, of those that were resolved as asked.
    """

    kind: Literal["up to date", "fast-forward", "merge"]
    commit: Commit | None
    bases: tuple[str, ...] = ()
    changes: tuple[SkillChange, ...] = ()
    resolved: Mapping[str, str] = field(default_factory=dict)


def merge_revision(
    repository: Repository,
    branch: str,
    revision: str,
    *,
    resolution: Resolution | None = None,
    author: str,
    message: str = "",
    tools: Mapping[str, str],
    dry_run: bool = False,
) -> Merge:
    """Bring the changes of another line of history into a branch.

    Args:
        repository: The store.
        branch: Where to; moved by compare-and-swap, and all is computed again if somebody else commits meanwhile.
        revision: The other side: mostly a branch.
        resolution: What to do about conflicts; None to give up.
        author: Who.
        message: Why; by default what was merged.
        tools: Program -> version.
        dry_run: Find out what would happen, change nothing.

    Raises:
        MergeConflictError: Both sides changed the same skills and ``resolution`` does not say whose to take.
        NotFoundError: There is no such branch, commit or skill.
        BusyError: Others were faster for a minute.
    """
    ref = f"heads/{check_ref(branch)}"

    def attempt() -> Merge:
        ours = require_head(repository, branch)
        theirs = repository.read_commit(resolve_revision(repository, revision))
        merge, skills = _plan(repository, ours, theirs, resolution or Resolution())
        if dry_run or merge.kind == "up to date":
            return merge
        secure_commit(repository, theirs.digest)
        if merge.kind == "fast-forward":
            repository.refs.update(ref, theirs.digest, expected=ours.digest)
            return replace(merge, commit=theirs)
        for change in merge.changes:
            if change.after is not None:
                secure_skill(repository, change.after)
        text = message or f"Merge {revision} into {branch}"
        commit = append_commit(repository, ref, skills, [ours, theirs], author=author, message=text, tools=tools)
        return replace(merge, commit=commit)

    with nullcontext() if dry_run else repository.writing():
        merge = retry_busy(attempt)
        if not dry_run:
            refresh_index(repository)
    repository.graph.settle()
    return merge


def _plan(repository: Repository, ours: Commit, theirs: Commit, resolution: Resolution) -> tuple[Merge, Skills]:
    """Say what a merge has to do, and which skills there are after it."""
    if is_ancestor(repository, theirs.digest, ours.digest):
        return Merge("up to date", ours, (theirs.digest,)), ours.skills
    if not resolution.take and _is_on_line(repository, ours.digest, theirs.digest):
        changes = tuple(find_changes(ours.skills, theirs.skills))
        return Merge("fast-forward", None, (ours.digest,), changes), theirs.skills
    bases = best_common_ancestors(repository, ours.digest, theirs.digest)
    skills, resolved = _merged(repository, bases, ours, theirs, resolution)
    return Merge("merge", None, tuple(bases), tuple(find_changes(ours.skills, skills)), resolved), skills


def merge_skills(bases: Sequence[Mapping[str, Descriptor]], ours: Skills, theirs: Skills) -> tuple[Skills, set[str]]:
    """Merge two libraries.

    Args:
        bases: The libraries that both come from; none if there is no such thing.
        ours: One side.
        theirs: The other.

    Returns:
        The skills as they are after the merge, ours where there is a conflict; and the names of those.
    """
    merged, conflicts = dict(ours), set()
    for change in find_changes(ours, theirs):
        name = change.name
        found = {None if name not in base else base[name].digest for base in bases or [{}]}
        ours_digest, theirs_digest = (None if side is None else side.digest for side in (change.before, change.after))
        if found == {ours_digest}:
            _put(merged, name, change.after)
        elif found != {theirs_digest}:
            conflicts.add(name)
    return merged, conflicts


def best_common_ancestors(repository: Repository, ours: str, theirs: str) -> list[str]:
    """Return the digests of the common ancestors that are not before another one, sorted; none if unrelated."""
    graph = repository.graph
    common = graph.ancestors(ours).keys() & graph.ancestors(theirs).keys()
    # What is before a common ancestor is one too, so the parents of all are all that is not best.
    earlier = {parent for digest in common for parent in graph.get(digest).parents}
    return sorted(common - earlier)


def is_ancestor(repository: Repository, older: str, newer: str) -> bool:
    """Tell whether ``newer`` is ``older`` or follows it."""
    return older in repository.graph.ancestors(newer)


def _is_on_line(repository: Repository, older: str, newer: str) -> bool:
    return any(record.digest == older for record in repository.graph.first_parents(newer))


def _merged(
    repository: Repository, bases: Sequence[str], ours: Commit, theirs: Commit, resolution: Resolution
) -> tuple[Skills, dict[str, str]]:
    older = [repository.read_commit(digest).skills for digest in bases]
    skills, names = merge_skills(older, ours.skills, theirs.skills)
    chosen = {name: resolution.side for name in names if resolution.side} | dict(resolution.take)
    _check_take(resolution.take, [*older, ours.skills, theirs.skills])
    conflicts = {name: _describe(name, older, ours.skills, theirs.skills) for name in sorted(names)}
    left = {name: text for name, text in conflicts.items() if name not in chosen}
    if left:
        raise MergeConflictError(
            f"{len(left)} skill{'s' * (len(left) > 1)} cannot be merged: "
            + "; ".join(f"{name} ({text})" for name, text in left.items())
            + ". Nothing was changed.",
            conflicts=left,
            hint=f"Say whose to take: --ours, --theirs, or --take {next(iter(left))}=theirs for each skill.",
        )
    for name, choice in chosen.items():
        source = {"ours": ours, "theirs": theirs}.get(str(choice))
        if source is None:
            source = repository.read_commit(resolve_revision(repository, str(choice)))
        _put(skills, name, source.skills.get(name))
    return skills, conflicts


def _check_take(take: Iterable[str], libraries: Sequence[Mapping[str, Descriptor]]) -> None:
    known = {name for library in libraries for name in library}
    for name in take:
        if name not in known:
            raise NotFoundError(f"Neither side has a skill {name!r}.", hint=choices(name, known, "skill"))


def _describe(name: str, bases: Sequence[Mapping[str, Descriptor]], ours: Skills, theirs: Skills) -> str:
    if name not in ours or name not in theirs:
        return "deleted in ours, changed in theirs" if name in theirs else "changed in ours, deleted in theirs"
    return "changed in both" if any(name in base for base in bases) else "added in both"


def _put(skills: Skills, name: str, skill: Descriptor | None) -> None:
    if skill is None:
        skills.pop(name, None)
    else:
        skills[name] = skill
