"""Fetch: bring what a remote has into the store and note what its branches name, without touching one's own."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from skillpack_store.errors import BusyError, DivergedError, NotFoundError
from skillpack_store.names import choices
from skillpack_store.refs import retry_busy
from skillpack_store.transfer.ancestry import follows
from skillpack_store.transfer.download import Download
from skillpack_store.transfer.reports import RefChange, TransferReport, require_refs
from skillpack_store.transfer.trying import silent
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skillpack_store.remotes.protocol import Remote
    from skillpack_store.repository import Repository

__all__ = ["JOBS", "fetch", "fetch_refs"]

JOBS = 8


def fetch(
    repository: Repository,
    remote: Remote,
    name: str | None,
    *,
    branches: Sequence[str] | None = None,
    all_tags: bool = False,
    force: bool = False,
    dry_run: bool = False,
    jobs: int = JOBS,
    progress: Callable[[int, int, str], None] = silent,
) -> TransferReport:
    """Bring branches of a remote into the store, with their history, skills and attachments.

    Args:
        repository: The store.
        remote: Where from.
        name: What the remote is called here: ``remotes/<name>/<branch>`` then names what its branches name. None if it
            has no name.
        branches: Which; by default all.
        all_tags: Bring all tags. By default those come along that name a commit that is brought or there.
        force: Move tags that name another commit here.
        dry_run: Change nothing.
        jobs: Connections at a time.
        progress: Called with bytes done, bytes in total, and what is being done; by one thread at a time.

    Returns:
        What came.

    Raises:
        NotFoundError: The remote has no such branch, or nothing at all.
        DivergedError: With ``all_tags``, a tag names another commit here. Nothing was changed.
        CorruptStoreError: What came is not what it should be. No ref was moved.
        RemoteError: The remote cannot be reached. What came is kept for the next time.
    """
    refs = require_refs(remote)
    report, _ = fetch_refs(
        repository,
        remote,
        name,
        refs,
        wanted=wanted_branches(remote, refs, branches),
        all_tags=all_tags,
        force=force,
        dry_run=dry_run,
        jobs=jobs,
        progress=progress,
    )
    return report


def fetch_refs(
    repository: Repository,
    remote: Remote,
    name: str | None,
    refs: Mapping[str, str],
    *,
    wanted: Mapping[str, str],
    all_tags: bool,
    force: bool,
    dry_run: bool,
    jobs: int,
    progress: Callable[[int, int, str], None],
) -> tuple[TransferReport, Mapping[str, Sequence[str]]]:
    """Fetch from a remote whose refs are known; see ``fetch``.

    Returns:
        The report, and digest -> parents of the commits that were looked at.
    """
    with ExitStack() as stack:
        if not dry_run:
            stack.enter_context(repository.writing())
        plan = stack.enter_context(Download(repository, remote, jobs=jobs, progress=progress, dry_run=dry_run))
        tags = {ref: digest for ref, digest in refs.items() if ref.startswith("tags/")}
        if all_tags and not force:
            _refuse_moved_tags(repository, remote, tags)
        plan.add_history(wanted.values())
        if not all_tags:
            tags = {ref: digest for ref, digest in tags.items() if plan.will_have(digest)}
        # Also where its commit is there: what it refers to need not be.
        plan.add_history(tags.values())
        plan.add_attachments(refs)
        moved, kept = _tag_changes(repository, tags, force=force)
        changes = _tracking_changes(repository, name, wanted) + moved
        if not dry_run:
            plan.run()
            for change in changes:
                _apply(repository, change)
            refresh_index(repository)
        report = TransferReport(
            remote.url,
            tuple(changes),
            tuple(kept),
            blobs=plan.blobs,
            nbytes=plan.nbytes,
            attachments=plan.attachments,
            dry_run=dry_run,
        )
    return report, plan.parents


def wanted_branches(remote: Remote, refs: Mapping[str, str], branches: Sequence[str] | None) -> dict[str, str]:
    """Return branch -> digest of those branches of a remote; all if None.

    Raises:
        NotFoundError: It has no such branch.
    """
    found = {ref.removeprefix("heads/"): digest for ref, digest in refs.items() if ref.startswith("heads/")}
    if branches is None:
        return found
    for branch in branches:
        if branch not in found:
            raise NotFoundError(
                f"There is no branch {branch!r} in {remote.url}.", hint=choices(branch, found, "branch")
            )
    return {branch: found[branch] for branch in branches}


def _refuse_moved_tags(repository: Repository, remote: Remote, tags: Mapping[str, str]) -> None:
    own = repository.tags()
    for ref, digest in tags.items():
        tag = ref.removeprefix("tags/")
        if own.get(tag, digest) != digest:
            raise DivergedError(
                f"The tag {tag} names {own[tag]} here and {digest} in {remote.url}.",
                hint="Nothing was changed. Give one of them another name, or move yours with --force.",
            )


def _tag_changes(
    repository: Repository, tags: Mapping[str, str], *, force: bool
) -> tuple[list[RefChange], list[RefChange]]:
    """Return which tags to move and which to keep."""
    own = repository.tags()
    changes = [
        RefChange(ref, old, digest, forced=old is not None)
        for ref, digest in tags.items()
        if (old := own.get(ref.removeprefix("tags/"))) != digest
    ]
    moved = [change for change in changes if force or not change.forced]
    return moved, [change for change in changes if change not in moved]


def _tracking_changes(repository: Repository, name: str | None, wanted: Mapping[str, str]) -> list[RefChange]:
    if name is None:
        return []
    return [
        RefChange(ref, old, digest)
        for branch, digest in wanted.items()
        if (old := _digest(repository, ref := f"remotes/{name}/{branch}")) != digest
    ]


def _apply(repository: Repository, change: RefChange) -> None:
    assert change.new is not None
    if change.ref.startswith("tags/"):
        repository.refs.update(change.ref, change.new, expected=change.old)
    else:
        track(repository, change.ref, change.new)


def track(repository: Repository, ref: str, digest: str) -> None:
    """Make a remote-tracking ref name what the remote named when it was looked at last."""

    def attempt() -> None:
        old = _digest(repository, ref)
        if old != digest:
            repository.refs.update(ref, digest, expected=old)

    retry_busy(attempt)


def advance_branch(
    repository: Repository,
    branch: str,
    digest: str,
    parents: Mapping[str, Sequence[str]],
    *,
    old: str | None,
    force: bool,
    url: str,
    name: str | None,
) -> RefChange | None:
    """Return how a branch has to move to be at a commit; None if it need not.

    Raises:
        DivergedError: The branch has commits that the other lacks.
    """
    if old == digest:
        return None
    # The usual case first: it looks at the new commits only, the other one at the whole history.
    if old is None or follows(repository, [digest], old, parents):
        return RefChange(f"heads/{branch}", old, digest)
    if not force and follows(repository, [old], digest):
        return None
    if not force:
        raise DivergedError(
            f"Branch {branch} has diverged: it is at {old}, in {url} it is at {digest}, and neither follows the other.",
            hint=f"Bring them together: skillpack merge {f'{name}/{branch}' if name else digest[:31]}"
            f"{'' if branch == 'main' else f' --branch {branch}'}. Or --force makes yours equal to the other one "
            "(your commits stay in the log of the branch).",
        )
    return RefChange(f"heads/{branch}", old, digest, forced=True)


def move_branch(repository: Repository, change: RefChange) -> None:
    """Move a branch of the store as planned.

    Raises:
        BusyError: It was moved meanwhile.
    """
    assert change.new is not None
    try:
        repository.refs.update(change.ref, change.new, expected=change.old)
    except BusyError as error:
        raise BusyError(
            f"Branch {change.ref.removeprefix('heads/')} was moved by somebody else while it was pulled.",
            hint="Pull again.",
        ) from error


def _digest(repository: Repository, ref: str) -> str | None:
    value = repository.refs.read(ref)
    return None if value is None else value.digest
