"""Going back: old states, single commits undone, and what was deleted. All of it as something new; history stays."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

from skillpack_store.changes import SkillChange, find_changes
from skillpack_store.commits import append_commit, require_head
from skillpack_store.errors import MergeConflictError, NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref, retry_busy
from skillpack_store.revisions import KINDS, resolve_revision
from skillpack_store.securing import secure_commit, secure_skill
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skillpack_store.commit_graph import CommitRecord
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.documents import Commit
    from skillpack_store.repository import Repository

__all__ = ["Deleted", "Undone", "list_deleted", "restore_state", "revert_commit", "undelete_ref", "undelete_skill"]


class Undone(NamedTuple):
    """What going back did, or would do.

    Attributes:
        commit: The new commit; the head if nothing had to change, None if one would be made.
        changes: What became of the skills at the head.
    """

    commit: Commit | None
    changes: tuple[SkillChange, ...]


class Deleted(NamedTuple):
    """Something that can be brought back.

    Attributes:
        kind: ``skill``, ``branch`` or ``tag``.
        name: Its name.
        digest: What it was: the skill, or the commit that the ref named.
    """

    kind: str
    name: str
    digest: str


def restore_state(
    repository: Repository,
    revision: str,
    names: Sequence[str] = (),
    branch: str = "main",
    *,
    author: str,
    message: str = "",
    tools: Mapping[str, str],
    dry_run: bool = False,
) -> Undone:
    """Make skills of a branch what they were in a commit, as a new commit; without names the whole library.

    Args:
        repository: The store.
        revision: The commit.
        names: Skills; one that was not there then is deleted.
        branch: Where the new commit goes.
        author: Who.
        message: Why; by default what was done.
        tools: Program -> version.
        dry_run: Find out what would happen, change nothing.

    Raises:
        NotFoundError: There is no such branch, commit or skill, or a skill is not in the store any more.
        BusyError: Others were faster for a minute.
    """
    old = repository.read_commit(resolve_revision(repository, revision))

    def change(skills: dict[str, Descriptor]) -> dict[str, Descriptor]:
        for name in names:
            if name not in old.skills and name not in skills:
                hint = choices(name, {**old.skills, **skills}, "skill")
                raise NotFoundError(f"There is no skill {name!r} at {revision}.", hint=hint)
        wanted = set(names) or old.skills.keys() | skills.keys()
        kept = {name: skill for name, skill in skills.items() if name not in wanted}
        return kept | {name: skill for name, skill in old.skills.items() if name in wanted}

    what = f"Restore {', '.join(names)} of {revision}" if names else f"Restore {revision}"
    text = message or f"{what}\n\nAs of commit {old.digest}."
    return _go_back(repository, branch, change, author=author, message=text, tools=tools, dry_run=dry_run)


def revert_commit(
    repository: Repository,
    revision: str,
    branch: str = "main",
    *,
    author: str,
    message: str = "",
    tools: Mapping[str, str],
    dry_run: bool = False,
) -> Undone:
    """Undo one commit, as a new commit: what it changed becomes what it was in its first parent.

    Args:
        repository: The store.
        revision: The commit to undo.
        branch: Where the new commit goes.
        author: Who.
        message: Why; by default what was done.
        tools: Program -> version.
        dry_run: Find out what would happen, change nothing.

    Raises:
        MergeConflictError: Later commits changed the same skills.
        NotFoundError: There is no such branch or commit, or a skill is not in the store any more.
        BusyError: Others were faster for a minute.
    """
    undone = repository.read_commit(resolve_revision(repository, revision))
    before = repository.read_commit(undone.parents[0]).skills if undone.parents else {}
    changes = find_changes(before, undone.skills)

    def change(skills: dict[str, Descriptor]) -> dict[str, Descriptor]:
        conflicts = {}
        for item in changes:
            found = skills.get(item.name)
            if _same(found, item.before):
                continue
            if not _same(found, item.after):
                conflicts[item.name] = "deleted since" if found is None else "changed since"
            elif item.before is None:
                del skills[item.name]
            else:
                skills[item.name] = item.before
        if conflicts:
            _refuse(revision, conflicts)
        return skills

    first = undone.message.partition("\n")[0]
    text = message or f'Revert "{first}"\n\nThis undoes commit {undone.digest}.'
    return _go_back(repository, branch, change, author=author, message=text, tools=tools, dry_run=dry_run)


def undelete_skill(
    repository: Repository, name: str, branch: str = "main", *, author: str, message: str = "", tools: Mapping[str, str]
) -> Undone:
    """Bring a deleted skill back, as it was last, as a new commit.

    Args:
        repository: The store.
        name: The skill.
        branch: Where the new commit goes.
        author: Who.
        message: Why; by default what was done.
        tools: Program -> version.

    Raises:
        NotFoundError: It was never there, or is not in the store any more.
        StoreError: It is not deleted.
        BusyError: Others were faster for a minute.
    """
    found = _deleted_skills(repository, branch)
    if name not in found:
        head = repository.skills(branch)
        if name in head:
            raise StoreError(f"The skill {name!r} is on branch {branch}, it was not deleted.")
        hint = choices(name, found, "deleted skill")
        raise NotFoundError(f"No skill {name!r} was deleted from branch {branch}.", hint=hint)
    # The commit that deleted it has it in its first parent.
    commit = repository.read_commit(found[name].digest)
    skill = repository.read_commit(commit.parents[0]).skills[name]
    text = message or f"Undelete {name}"

    def change(skills: dict[str, Descriptor]) -> dict[str, Descriptor]:
        return skills if name in skills else {**skills, name: skill}

    return _go_back(repository, branch, change, author=author, message=text, tools=tools, dry_run=False)


def undelete_ref(repository: Repository, ref: str) -> str:
    """Make a deleted branch or tag name again what it named last; returns the digest.

    Raises:
        NotFoundError: It never was, or its commits are not in the store any more.
        StoreError: It is not deleted.
        BusyError: Somebody else made it meanwhile.
    """
    kind, _, name = ref.partition("/")
    log = repository.refs.log(ref)
    if log and log[0].digest is not None:
        raise StoreError(f"The {KINDS[kind]} {name!r} is there, it was not deleted.")
    digest = next((value.digest for value in log if value.digest is not None), None)
    if digest is None:
        raise NotFoundError(f"No {KINDS[kind]} {name!r} was deleted.")
    with repository.writing():
        secure_commit(repository, digest)
        repository.refs.update(ref, digest, expected=None)
        refresh_index(repository)
    return digest


def list_deleted(repository: Repository, branch: str = "main") -> list[Deleted]:
    """Return what can be brought back: skills of a branch, branches and tags; sorted by kind and name."""
    found = []
    for kind, what in KINDS.items():
        for name in repository.refs.names(kind):
            log = repository.refs.log(f"{kind}/{name}")
            last = next((value.digest for value in log if value.digest is not None), None)
            if last is not None and log[0].digest is None:
                found.append(Deleted(what, name, last))
    for name, record in _deleted_skills(repository, branch).items():
        found.append(Deleted("skill", name, str(record.changes[0][name][0])))
    repository.graph.settle()
    return sorted(found)


def _deleted_skills(repository: Repository, branch: str) -> dict[str, CommitRecord]:
    """Return name -> the newest commit that deleted it, of the skills that a branch had and has no more."""
    value = repository.refs.read(f"heads/{check_ref(branch)}")
    if value is None or value.digest is None:
        return {}
    newest: dict[str, CommitRecord] = {}
    for record in repository.graph.first_parents(value.digest):
        for name in record.changes[0]:
            newest.setdefault(name, record)
    return {name: record for name, record in newest.items() if record.changes[0][name][1] is None}


def _go_back(
    repository: Repository,
    branch: str,
    change: Callable[[dict[str, Descriptor]], dict[str, Descriptor]],
    *,
    author: str,
    message: str,
    tools: Mapping[str, str],
    dry_run: bool,
) -> Undone:
    ref = f"heads/{check_ref(branch)}"

    def attempt() -> Undone:
        head = require_head(repository, branch)
        after = change(dict(head.skills))
        changes = tuple(find_changes(head.skills, after))
        if not changes:
            return Undone(head, ())
        if dry_run:
            return Undone(None, changes)
        for item in changes:
            if item.after is not None:
                secure_skill(repository, item.after)
        commit = append_commit(repository, ref, after, [head], author=author, message=message, tools=tools)
        return Undone(commit, changes)

    with nullcontext() if dry_run else repository.writing():
        undone = retry_busy(attempt)
        if undone.changes and not dry_run:
            refresh_index(repository)
    return undone


def _same(first: Descriptor | None, second: Descriptor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.digest == second.digest


def _refuse(revision: str, conflicts: Mapping[str, str]) -> None:
    raise MergeConflictError(
        f"{revision} cannot be undone, later commits touch the same skills: "
        + "; ".join(f"{name} ({text})" for name, text in conflicts.items())
        + ". Nothing was changed.",
        conflicts=conflicts,
        hint=f"To have one as it was before: skillpack restore {revision}~ {next(iter(conflicts))}",
    )
