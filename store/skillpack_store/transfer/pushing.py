"""Push: bring one's own branches and tags to a remote, refs last and only forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack_store.errors import BusyError, CorruptStoreError, DivergedError, NotFoundError, RemoteError
from skillpack_store.names import choices
from skillpack_store.referrers import referrers_tag
from skillpack_store.refs import retry_busy
from skillpack_store.remotes.protocol import FinishingRemote
from skillpack_store.securing import secure_commit
from skillpack_store.transfer.ancestry import follows
from skillpack_store.transfer.fetching import JOBS, track
from skillpack_store.transfer.reports import RefChange, TransferReport, ls_remote
from skillpack_store.transfer.trying import Tries, silent, trying
from skillpack_store.transfer.upload import Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skillpack_store.remotes.protocol import Remote, WritableRemote
    from skillpack_store.repository import Repository

__all__ = ["push"]


def push(
    repository: Repository,
    remote: WritableRemote,
    name: str | None,
    *,
    branches: Sequence[str] | None = ("main",),
    tags: Sequence[str] = (),
    all_tags: bool = False,
    force: bool = False,
    dry_run: bool = False,
    jobs: int = JOBS,
    progress: Callable[[int, int, str], None] = silent,
) -> TransferReport:
    """Bring branches, with their history, skills and attachments, and tags to a remote.

    Args:
        repository: The store.
        remote: Where to.
        name: What the remote is called here, or None; see ``fetch``.
        branches: Which; None for all.
        tags: Which, with the commits that they name.
        all_tags: Bring all tags.
        force: Also move branches that have commits that ours lack, and tags that name something else; not if somebody
            moves them meanwhile.
        dry_run: Change nothing.
        jobs: Connections at a time.
        progress: Called with bytes done, bytes in total, and what is being done; by one thread at a time.

    Returns:
        What went.

    Raises:
        NotFoundError: There is no such branch or tag, or a part of what is to be sent is not in the store.
        DivergedError: A branch of the remote has commits that ours lacks, or a tag names another commit there.
            Nothing was changed.
        BusyError: Somebody else moved a branch or tag of the remote meanwhile. Theirs stays.
        RemoteError: The remote cannot be reached, or refuses. What went is passed over the next time.
    """
    refs = ls_remote(remote)
    changes = _planned(repository, remote, refs, _wanted(repository, branches, tags, all_tags=all_tags), force=force)
    plan = Upload(repository, remote, refs, jobs=jobs, progress=progress)
    plan.add_history(change.new for change in changes if change.new is not None)
    plan.add_attachments()
    plan.leave_out_what_is_there()
    if not dry_run:
        plan.run()
        for subject in plan.lists:
            _update_list(remote, plan, subject, refs)
        for change in changes:
            _move(remote, change)
        if isinstance(remote, FinishingRemote):
            trying(remote.finish)
        _track(repository, name, refs, changes)
    return TransferReport(
        remote.url,
        tuple(changes),
        blobs=plan.blobs,
        nbytes=plan.nbytes,
        attachments=plan.attachments,
        dry_run=dry_run,
    )


def _wanted(
    repository: Repository, branches: Sequence[str] | None, tags: Sequence[str], *, all_tags: bool
) -> dict[str, str]:
    """Return ref -> digest of what is to be brought, tags first: what a branch names may be looked for by its tag."""
    own_branches, own_tags = repository.branches(), repository.tags()
    wanted = {}
    for tag in own_tags if all_tags else tags:
        if tag not in own_tags:
            raise NotFoundError(f"There is no tag {tag!r}.", hint=choices(tag, own_tags, "tag"))
        wanted[f"tags/{tag}"] = own_tags[tag]
    for branch in own_branches if branches is None else branches:
        if branch not in own_branches:
            raise NotFoundError(f"There is no branch {branch!r}.", hint=choices(branch, own_branches, "branch"))
        wanted[f"heads/{branch}"] = own_branches[branch]
    return wanted


def _planned(
    repository: Repository, remote: Remote, refs: Mapping[str, str], wanted: Mapping[str, str], *, force: bool
) -> list[RefChange]:
    changes = []
    for ref, new in wanted.items():
        old = refs.get(ref)
        if old == new:
            continue
        forced = old is not None and (ref.startswith("tags/") or not follows(repository, [new], old))
        if forced and not force:
            raise _refused(repository, remote, RefChange(ref, old, new))
        changes.append(RefChange(ref, old, new, forced=forced))
    return changes


def _refused(repository: Repository, remote: Remote, change: RefChange) -> DivergedError:
    kind, _, name = change.ref.partition("/")
    old, new = str(change.old), str(change.new)
    if kind == "tags":
        return DivergedError(
            f"The tag {name} names {old} in {remote.url} and {new} here.",
            hint="Nothing was changed. Choose another name, or move it there with --force.",
        )
    if repository.blobs.has(old) and follows(repository, [old], new):
        return DivergedError(
            f"Branch {name} of {remote.url} is at {old}, ahead of yours at {new}.",
            hint="Nothing was changed. There is nothing to push; --force moves it back.",
        )
    return DivergedError(
        f"Branch {name} of {remote.url} is at {old}, which yours at {new} does not follow.",
        hint="Nothing was changed. Pull first, then push again; --force replaces what is there.",
    )


def _update_list(remote: WritableRemote, plan: Upload, subject: str, refs: Mapping[str, str]) -> None:
    ref = f"referrers/{referrers_tag(subject)}"
    known: list[Mapping[str, str]] = [refs]

    def attempt() -> None:
        # What was seen at the start, then, if somebody else was faster, what is there now.
        current = (known.pop() if known else trying(remote.refs)).get(ref)
        index, data = plan.merged_list(subject, current)
        if index.digest != current:
            trying(lambda: remote.write(index, lambda: iter([data])))
            _move(remote, RefChange(ref, current, index.digest))

    retry_busy(attempt)


def _move(remote: WritableRemote, change: RefChange) -> None:
    """Move a ref of a remote; an answer that got lost, or that a second try got, is told from the refs themselves."""
    tries = Tries()
    while True:
        try:
            remote.update_ref(change.ref, change.new, expected=change.old)
        except BusyError as error:
            found = trying(remote.refs).get(change.ref)
            if found == change.new:
                return
            raise BusyError(
                f"{change.ref.partition('/')[2]} of {remote.url} was moved to {found or 'nothing'} by somebody else.",
                hint="Theirs stays. Pull, then push again.",
            ) from error
        except RemoteError as error:
            tries.failed(error)
            continue
        return


def _track(repository: Repository, name: str | None, refs: Mapping[str, str], changes: Sequence[RefChange]) -> None:
    """Note what the branches of the remote name now, as far as that is in the store."""
    if name is None:
        return
    now = {**refs, **{change.ref: change.new for change in changes}}
    with repository.writing():
        for ref, digest in now.items():
            tracking = f"remotes/{name}/{ref.removeprefix('heads/')}"
            if ref.startswith("heads/") and digest is not None and _may_name(repository, tracking, digest):
                track(repository, tracking, digest)


def _may_name(repository: Repository, ref: str, digest: str) -> bool:
    """Tell whether a commit is in the store with all that it refers to, which a collection may have left in part."""
    value = repository.refs.read(ref)
    if value is not None and value.digest == digest:
        return True
    try:
        secure_commit(repository, digest)
    except (NotFoundError, CorruptStoreError):
        return False
    return True
