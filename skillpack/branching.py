"""Changes to the history of a library as a whole: branches, tags, merges, and going back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from skillpack.errors import UsageError, listing
from skillpack.summaries import open_existing, signed
from skillpack_store import (
    Resolution,
    create_branch,
    delete_ref,
    list_deleted,
    merge_revision,
    only_named_by,
    restore_state,
    revert_commit,
    tag_revision,
    undelete_ref,
    undelete_skill,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.summaries import StoreLike
    from skillpack_store import Commit, Repository, SkillChange

Side = Literal["ours", "theirs"]


@dataclass(frozen=True)
class RefSummary:
    """A branch or a tag.

    Attributes:
        kind: ``branch`` or ``tag``.
        name: its name.
        digest: of the commit that it names.
        time: of that commit, RFC 3339 in UTC.
        author: of that commit.
        message: of that commit.
        skills: how many skills the library has there.
        only_here: when it is deleted, how many commits no other branch or tag leads to; else None.
    """

    kind: str
    name: str
    digest: str
    time: str
    author: str
    message: str
    skills: int
    only_here: int | None = None


@dataclass(frozen=True)
class SkillMove:
    """What became of one skill.

    Attributes:
        name: of the skill.
        kind: ``added``, ``removed`` or ``changed``.
        before: digest before; None if it was added.
        after: digest after; None if it was removed.
    """

    name: str
    kind: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class LibraryChange:
    """What a merge or a step back did to a branch, or would do.

    Attributes:
        kind: ``merge``, ``fast-forward``, ``up to date``, ``restore``, ``revert`` or ``undelete``.
        branch: the branch; or the name of the branch or tag that is back.
        commit: digest that it names now; None after a dry run.
        changes: what became of the skills, sorted by name.
        resolved: skill -> what the conflict was, of those that were resolved as asked.
        dry_run: nothing was changed.
    """

    kind: str
    branch: str
    commit: str | None
    changes: tuple[SkillMove, ...] = ()
    resolved: Mapping[str, str] = field(default_factory=dict)
    dry_run: bool = False


def branch(
    name: str | None = None,
    revision: str = "main",
    *,
    delete: bool = False,
    dry_run: bool = False,
    store: StoreLike = None,
) -> list[RefSummary]:
    """List branches, make one, or delete one.

    Args:
        name: the branch to make or delete; None lists all.
        revision: the commit at which to make it.
        delete: delete it instead. Its log stays, and `undelete` brings it back.
        dry_run: say what would be deleted, change nothing.
        store: where.

    Returns:
        All branches, or the one that was made or deleted.

    Raises:
        NotFoundError: there is no such branch or commit.
        StoreError: the branch exists at another commit.
    """
    repository = open_existing(store)
    if name is None:
        return [_ref(repository, "branch", own, digest) for own, digest in repository.branches().items()]
    if delete:
        return [_delete(repository, "branch", name, dry_run=dry_run)]
    return [_ref(repository, "branch", name, create_branch(repository, name, revision))]


def tag(
    name: str | None = None,
    revision: str = "main",
    *,
    force: bool = False,
    delete: bool = False,
    dry_run: bool = False,
    store: StoreLike = None,
) -> list[RefSummary]:
    """List tags, make one, move one, or delete one.

    Args:
        name: the tag; None lists all.
        revision: the commit that it shall name.
        force: move it if it names another commit.
        delete: delete it instead. Its log stays, and `undelete` brings it back.
        dry_run: say what would be deleted, change nothing.
        store: where.

    Returns:
        All tags, or the one that was made, moved or deleted.

    Raises:
        NotFoundError: there is no such tag or commit.
        StoreError: the tag names another commit and `force` is not set.
    """
    repository = open_existing(store)
    if name is None:
        return [_ref(repository, "tag", own, digest) for own, digest in repository.tags().items()]
    if delete:
        return [_delete(repository, "tag", name, dry_run=dry_run)]
    return [_ref(repository, "tag", name, tag_revision(repository, name, revision, move=force))]


def merge(
    revision: str,
    *,
    side: Side | None = None,
    take: Mapping[str, str] | None = None,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    dry_run: bool = False,
) -> LibraryChange:
    """Bring the changes of another branch into a branch: three-way, skill by skill, against what both come from.

    Args:
        revision: the other side.
        side: whose skill to take where both changed one, ``ours`` being that of `branch`.
        take: the same skill by skill: name -> ``ours``, ``theirs`` or a revision.
        store: where.
        branch: the branch that is changed.
        message: why, for the history.
        author: who, for the history.
        dry_run: say what would happen, change nothing.

    Raises:
        MergeConflictError: both sides changed the same skills; nothing was changed.
        NotFoundError: there is no such branch, commit or skill.
    """
    found = merge_revision(
        open_existing(store),
        branch,
        revision,
        resolution=Resolution(side, take or {}),
        message=message,
        dry_run=dry_run,
        **signed(author),
    )
    commit = None if dry_run or found.commit is None else found.commit.digest
    return LibraryChange(found.kind, branch, commit, _moves(found.changes), found.resolved, dry_run)


def restore(
    revision: str,
    skills: Sequence[str] = (),
    *,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    dry_run: bool = False,
) -> LibraryChange:
    """Make a branch what the library was in a commit, as a new commit; what came after stays in the history.

    Args:
        revision: the commit.
        skills: names of the skills to restore; by default the whole library.
        store: where.
        branch: the branch that is changed.
        message: why, for the history.
        author: who, for the history.
        dry_run: say what would happen, change nothing.

    Raises:
        NotFoundError: there is no such branch, commit or skill, or a part of it is not in the store any more.
    """
    names = [skills] if isinstance(skills, str) else list(skills)
    repository = open_existing(store)
    undone = restore_state(repository, revision, names, branch, message=message, dry_run=dry_run, **signed(author))
    return _change("restore", branch, undone.commit, undone.changes, dry_run=dry_run)


def revert(
    revision: str,
    *,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
    dry_run: bool = False,
) -> LibraryChange:
    """Undo one commit, as a new commit.

    Args:
        revision: the commit to undo; a merge is undone as seen from its first parent.
        store: where.
        branch: the branch that is changed.
        message: why, for the history.
        author: who, for the history.
        dry_run: say what would happen, change nothing.

    Raises:
        MergeConflictError: later commits changed the same skills; nothing was changed.
        NotFoundError: there is no such branch or commit.
    """
    undone = revert_commit(open_existing(store), revision, branch, message=message, dry_run=dry_run, **signed(author))
    return _change("revert", branch, undone.commit, undone.changes, dry_run=dry_run)


def undelete(
    name: str,
    kind: Literal["skill", "branch", "tag"] | None = None,
    *,
    store: StoreLike = None,
    branch: str = "main",
    message: str = "",
    author: str | None = None,
) -> LibraryChange:
    """Bring back a deleted skill, branch or tag as it was last.

    Args:
        name: its name.
        kind: what it was; needed only where several things of the name were deleted.
        store: where.
        branch: the branch that a skill was deleted from.
        message: why, for the history; only for a skill.
        author: who, for the history; only for a skill.

    Raises:
        NotFoundError: nothing of the name was deleted, or a part of it is not in the store any more.
        UsageError: several things of the name were deleted.
        StoreError: it is not deleted.
    """
    repository = open_existing(store)
    kinds = [kind] if kind else [entry.kind for entry in list_deleted(repository, branch) if entry.name == name]
    if len(kinds) > 1:
        raise UsageError(
            f"{listing(f'a {found}' for found in kinds)} of the name {name} were deleted", hint="Say which with --kind."
        )
    if kinds in (["branch"], ["tag"]):
        digest = undelete_ref(repository, _ref_of(kinds[0], name))
        return LibraryChange("undelete", name, digest)
    undone = undelete_skill(repository, name, branch, message=message, **signed(author))
    return _change("undelete", branch, undone.commit, undone.changes, dry_run=False)


def _change(
    kind: str, branch: str, commit: Commit | None, changes: Sequence[SkillChange], *, dry_run: bool
) -> LibraryChange:
    made = None if dry_run or commit is None else commit.digest
    return LibraryChange(kind if changes else "up to date", branch, made, _moves(changes), dry_run=dry_run)


def _moves(changes: Sequence[SkillChange]) -> tuple[SkillMove, ...]:
    return tuple(SkillMove(change.name, change.kind, *change.digests) for change in changes)


def _delete(repository: Repository, kind: str, name: str, *, dry_run: bool) -> RefSummary:
    ref = _ref_of(kind, name)
    alone = only_named_by(repository, ref)
    return _ref(repository, kind, name, delete_ref(repository, ref, dry_run=dry_run), only_here=alone)


def _ref(repository: Repository, kind: str, name: str, digest: str, *, only_here: int | None = None) -> RefSummary:
    commit = repository.read_commit(digest)
    return RefSummary(kind, name, digest, commit.time, commit.author, commit.message, len(commit.skills), only_here)


def _ref_of(kind: str, name: str) -> str:
    return f"{'heads' if kind == 'branch' else 'tags'}/{name}"
