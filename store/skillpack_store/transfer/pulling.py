"""Pull: fetch, then let one's own branches follow. Clone: the same into a new store."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from skillpack_store.addresses import check_skill_name
from skillpack_store.errors import NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.transfer.download import Download
from skillpack_store.transfer.fetching import JOBS, advance_branch, fetch_refs, move_branch, wanted_branches
from skillpack_store.transfer.reports import RefChange, TransferReport, require_refs
from skillpack_store.transfer.trying import silent
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skillpack_store.remotes.protocol import Remote
    from skillpack_store.repository import Repository

__all__ = ["pull", "pull_skills"]


def pull(
    repository: Repository,
    remote: Remote,
    name: str | None,
    *,
    branches: Sequence[str] | None = ("main",),
    all_tags: bool = False,
    force: bool = False,
    dry_run: bool = False,
    jobs: int = JOBS,
    progress: Callable[[int, int, str], None] = silent,
) -> TransferReport:
    """Bring branches of a remote into the store and move one's own branches of the same names forward to them.

    Args:
        repository: The store.
        remote: Where from.
        name: What the remote is called here, or None; see ``fetch``.
        branches: Which; None for all that the remote has.
        all_tags: See ``fetch``.
        force: Also move a branch that has commits that the remote's lacks, and tags that name something else.
        dry_run: Change nothing.
        jobs: Connections at a time.
        progress: See ``fetch``.

    Raises:
        DivergedError: A branch has commits that the remote's lacks. What was fetched is kept; branches that need not
            be merged were moved.
        BusyError: Somebody else moved a branch meanwhile.
        NotFoundError: See ``fetch``, also for the other errors.
    """
    with nullcontext() if dry_run else repository.writing():
        return _pull(
            repository,
            remote,
            name,
            branches,
            all_tags=all_tags,
            force=force,
            dry_run=dry_run,
            jobs=jobs,
            progress=progress,
        )


def _pull(
    repository: Repository,
    remote: Remote,
    name: str | None,
    branches: Sequence[str] | None,
    *,
    all_tags: bool,
    force: bool,
    dry_run: bool,
    jobs: int,
    progress: Callable[[int, int, str], None],
) -> TransferReport:
    refs = require_refs(remote)
    wanted = wanted_branches(remote, refs, branches)
    before = repository.branches()
    report, parents = fetch_refs(
        repository,
        remote,
        name,
        refs,
        wanted=wanted,
        all_tags=all_tags,
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        progress=progress,
    )
    changes = []
    problems = []
    for branch, digest in wanted.items():
        old = before.get(branch)
        try:
            change = advance_branch(
                repository, branch, digest, parents, old=old, force=force, url=remote.url, name=name
            )
        except StoreError as error:
            problems.append(error)
            continue
        if change is not None:
            changes.append(change)
            if not dry_run:
                move_branch(repository, change)
    if not dry_run:
        refresh_index(repository)
    if problems:
        raise problems[0]
    return replace(report, changes=report.changes + tuple(changes))


def pull_skills(
    repository: Repository,
    remote: Remote,
    names: Sequence[str],
    *,
    author: str,
    tools: Mapping[str, str],
    message: str = "",
    branch: str = "main",
    accept: Callable[[str, str], None] | None = None,
    dry_run: bool = False,
    jobs: int = JOBS,
    progress: Callable[[int, int, str], None] = silent,
) -> TransferReport:
    """Bring only some skills of a remote into the store, with what is attached to them, without its history.

    They become the newest of their names on the store's own branch, by a commit of its own.

    Args:
        repository: The store.
        remote: Where from.
        names: Names of skills, as they are at the head of the remote's branch.
        author: Of the commit.
        tools: Program -> version, for the commit.
        message: Of the commit.
        branch: The branch, on both sides.
        accept: Called with name and digest of each skill when all of it is there, with its attachments, and before it
            is committed; raises to refuse.
        dry_run: Change nothing.
        jobs: Connections at a time.
        progress: See ``fetch``.

    Raises:
        NotFoundError: There is no such skill, branch or library.
        CorruptStoreError: What came is not what it should be. No ref was moved.
        RemoteError: The remote cannot be reached.
    """
    refs = require_refs(remote)
    digest = wanted_branches(remote, refs, [branch])[branch]
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(repository.writing())
        plan = stack.enter_context(Download(repository, remote, jobs=jobs, progress=progress, dry_run=dry_run))
        there = plan.peek(digest).skills
        for name in names:
            if check_skill_name(name) not in there:
                raise NotFoundError(
                    f"There is no skill {name!r} on branch {branch} of {remote.url}.",
                    hint=choices(name, there, "skill"),
                )
        wanted = {name: there[name] for name in sorted(set(names))}
        plan.add_skills(wanted.values())
        plan.add_attachments(refs)
        before = repository.branches().get(branch)
        after = before
        if not dry_run:
            plan.run()
            if accept is not None:
                for name, skill in wanted.items():
                    accept(name, skill.digest)
            after = repository.commit(
                branch,
                lambda skills: {**skills, **wanted},
                author=author,
                message=message or f"Pull {', '.join(wanted)}",
                tools=tools,
            ).digest
    changes = () if after == before else (RefChange(f"heads/{branch}", before, after),)
    return TransferReport(
        remote.url,
        changes,
        blobs=plan.blobs,
        nbytes=plan.nbytes,
        attachments=plan.attachments,
        dry_run=dry_run,
        skills=tuple(wanted),
    )
