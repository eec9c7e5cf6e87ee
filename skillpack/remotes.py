"""Libraries elsewhere: remotes by name or address, push, pull, fetch, clone, ls-remote."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillpack.errors import StoreError, UsageError
from skillpack.model_card import CARD_LIMIT, CARD_TYPE
from skillpack.progress import Progress, silent
from skillpack.settings import default_author, default_store, registry_config_files
from skillpack.summaries import SkillSummary, open_existing, open_or_create, tools
from skillpack_store.remotes.listing import NamedRemote, RemoteList
from skillpack_store.remotes.opening import check_url, open_remote, open_writable
from skillpack_store.transfer import RefChange, TransferReport, look_at, look_at_attachment
from skillpack_store.transfer import fetch as _fetch
from skillpack_store.transfer import ls_remote as _ls_remote
from skillpack_store.transfer import pull as _pull
from skillpack_store.transfer import pull_skills as _pull_skills
from skillpack_store.transfer import push as _push
from skillpack_store.transfer.fetching import wanted_branches
from skillpack_store.transfer.reports import require_refs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.manifest import Manifest
    from skillpack.summaries import StoreLike
    from skillpack_store import Repository
    from skillpack_store.remotes.protocol import Remote

ORIGIN = "origin"
"""The remote that is used when none is named."""


@dataclass(frozen=True)
class RemoteSummary:
    """A remote that a store knows.

    Attributes:
        name: what it is called.
        url: its address.
        insecure: plain HTTP is allowed.
        branches: branch -> digest of the commit that it named when it was looked at last.
    """

    name: str
    url: str
    insecure: bool
    branches: dict[str, str]


def add_remote(name: str, url: str, *, insecure: bool = False, store: StoreLike = None) -> RemoteSummary:
    """Give the address of a remote a name; nothing is fetched.

    Args:
        name: such as ``origin``, which is used when no remote is named.
        url: a folder, a ``.tar`` file, ``s3://``, ``gs://``, ``az://``, ``https://``, ``oci://`` or ``hf://``.
        insecure: allow plain HTTP.
        store: the store that shall know it; made if it is not there.

    Raises:
        StoreError: the name is taken, or the address cannot be kept, for example because a password is in it.
    """
    repository = open_or_create(store)
    return _summary(repository, RemoteList(repository).add(name, url, insecure=insecure))


def list_remotes(*, store: StoreLike = None) -> list[RemoteSummary]:
    """The remotes that a store knows, sorted by name."""
    repository = open_existing(store)
    return [_summary(repository, remote) for remote in RemoteList(repository).all().values()]


def remove_remote(name: str, *, store: StoreLike = None) -> RemoteSummary:
    """Forget a remote and what its branches named; nothing changes at the remote.

    Raises:
        NotFoundError: there is no such remote.
    """
    repository = open_existing(store)
    remotes = RemoteList(repository)
    summary = _summary(repository, remotes.get(name))
    remotes.remove(name)
    return summary


def set_remote_url(name: str, url: str, *, insecure: bool = False, store: StoreLike = None) -> RemoteSummary:
    """Give a remote another address.

    Raises:
        NotFoundError: there is no such remote.
        StoreError: the address cannot be kept.
    """
    repository = open_existing(store)
    return _summary(repository, RemoteList(repository).set_url(name, url, insecure=insecure))


def ls_remote(remote: str = ORIGIN, *, insecure: bool = False, store: StoreLike = None) -> dict[str, str]:
    """What the refs of a remote name now: ``heads/main`` and so on -> digest.

    Args:
        remote: name of a remote, or an address.
        insecure: allow plain HTTP.
        store: the store that knows the name.

    Raises:
        RemoteError: the remote cannot be reached.
    """
    named = _find(remote, store, insecure=insecure)
    return _ls_remote(_open(named))


@dataclass(frozen=True)
class RemoteSkill:
    """A skill of a remote that was looked at and not brought.

    Attributes:
        summary: where it is: time, author and message are those of the commit that it was found in.
        manifest: what it changes.
        card: its model card, Markdown; empty if it has none.
    """

    summary: SkillSummary
    manifest: Manifest
    card: str


def show_remote(
    skill: str, remote: str = ORIGIN, *, branch: str = "main", insecure: bool = False, store: StoreLike = None
) -> RemoteSkill:
    """Everything about a skill of a remote but its content: a few kilobytes are read, and nothing is stored.

    Args:
        skill: ``name``, at the head of the remote's branch, or ``name@tag``.
        remote: name of a remote, or an address.
        branch: the remote's branch.
        insecure: allow plain HTTP.
        store: the store that knows the name.

    Raises:
        NotFoundError: there is no such skill.
        CorruptStoreError: what came is not what it should be.
        DamagedSkillError: its manifest makes no sense.
        RemoteError: the remote cannot be reached.
    """
    # Only here, since numpy is not needed for the rest.
    from skillpack.skill import MANIFEST_LIMIT, open_manifest

    named = _find(remote, store, insecure=insecure)
    opened = _open(named)
    seen = look_at(opened, skill, branch=branch, limit=MANIFEST_LIMIT)
    manifest = open_manifest(seen.name, seen.manifest.config, seen.config)
    digest, commit = seen.descriptor.digest, seen.commit
    cards = [entry for entry in seen.attachments if entry.artifact_type == CARD_TYPE]
    card = look_at_attachment(opened, digest, cards[-1], limit=CARD_LIMIT) if cards else b""
    summary = SkillSummary(seen.name, None, digest, seen.manifest.size, commit.time, commit.author, commit.message)
    return RemoteSkill(summary, manifest, card.decode("utf-8", "replace"))


def push(
    remote: str = ORIGIN,
    *,
    branch: str = "main",
    all_branches: bool = False,
    tags: bool = False,
    force: bool = False,
    dry_run: bool = False,
    insecure: bool = False,
    store: StoreLike = None,
    progress: Progress = silent,
) -> TransferReport:
    """Bring a branch with its history, skills and attachments to a remote.

    Args:
        remote: name of a remote, or an address.
        branch: which.
        all_branches: bring all branches instead.
        tags: bring all tags too.
        force: also replace what the remote has and this library does not.
        dry_run: change nothing.
        insecure: allow plain HTTP.
        store: the store.
        progress: called during the work.

    Raises:
        DivergedError: the remote has commits that this library lacks. Nothing was changed.
        BusyError: somebody else pushed in the same moment. Theirs stays.
        RemoteError: the remote cannot be reached.
    """
    repository = open_existing(store)
    named = _find(remote, repository, insecure=insecure)
    return _push(
        repository,
        open_writable(named.url, **_options(named)),
        named.name or None,
        branches=None if all_branches else [branch],
        all_tags=tags,
        force=force,
        dry_run=dry_run,
        progress=progress,
    )


def fetch(
    remote: str = ORIGIN,
    *,
    branch: str | None = None,
    tags: bool = False,
    force: bool = False,
    dry_run: bool = False,
    insecure: bool = False,
    store: StoreLike = None,
    progress: Progress = silent,
) -> TransferReport:
    """Bring what a remote has into the store without touching one's own branches.

    Args:
        remote: name of a remote, or an address.
        branch: which; by default all.
        tags: bring all tags, not only those of commits that come.
        force: move tags that name something else here.
        dry_run: change nothing.
        insecure: allow plain HTTP.
        store: the store.
        progress: called during the work.

    Raises:
        CorruptStoreError: what came is not what it should be. No ref was moved.
        RemoteError: the remote cannot be reached. What came is kept for the next time.
    """
    repository = open_existing(store)
    named = _find(remote, repository, insecure=insecure)
    return _fetch(
        repository,
        _open(named),
        named.name or None,
        branches=None if branch is None else [branch],
        all_tags=tags,
        force=force,
        dry_run=dry_run,
        progress=progress,
    )


def pull(
    remote: str = ORIGIN,
    skills: Sequence[str] | str = (),
    *,
    branch: str = "main",
    all_branches: bool = False,
    tags: bool = False,
    force: bool = False,
    dry_run: bool = False,
    insecure: bool = False,
    author: str | None = None,
    message: str = "",
    store: StoreLike = None,
    progress: Progress = silent,
) -> TransferReport:
    """Bring a branch of a remote into the library and move one's own branch forward to it.

    Args:
        remote: name of a remote, or an address.
        skills: names of skills: bring only these, without the history, in a commit of one's own.
        branch: which.
        all_branches: bring all branches instead.
        tags: bring all tags, not only those of commits that come.
        force: also move branches that have commits that the remote's lack, and tags that name something else.
        dry_run: change nothing.
        insecure: allow plain HTTP.
        author: of that commit.
        message: of that commit.
        store: the store; made if it is not there.
        progress: called during the work.

    Raises:
        DivergedError: the branch has commits that the remote's lacks. What came is kept; the branch stays.
        CorruptStoreError: what came is not what it should be. No ref was moved.
        RemoteError: the remote cannot be reached. What came is kept for the next time.
        NotTrustedError: your policy asks for a signature, and none of a skill that was named counts.
        UsageError: skills are named together with all branches, tags or force; or none are, and there is no commit
            that an author or a message could be of.
    """
    from skillpack.signing.checking import require_trusted

    names = [skills] if isinstance(skills, str) else list(skills)
    if names and (all_branches or tags or force):
        raise UsageError("single skills come without branches and tags", hint="Name skills, or pull everything.")
    if not names and (message or author is not None):
        raise UsageError("a pull of a branch makes no commit", hint="Leave out the message and the author.")
    named = _find(remote, store, insecure=insecure)
    opened = _open(named)
    repository = open_or_create(store)
    if names:
        return _pull_skills(
            repository,
            opened,
            names,
            author=author or default_author(),
            tools=tools(),
            message=message,
            branch=branch,
            accept=lambda name, digest: require_trusted(repository, digest, name),
            dry_run=dry_run,
            progress=progress,
        )
    return _pull(
        repository,
        opened,
        named.name or None,
        branches=None if all_branches else [branch],
        all_tags=tags,
        force=force,
        dry_run=dry_run,
        progress=progress,
    )


def clone(
    url: str,
    folder: str | Path | None = None,
    *,
    branch: str = "main",
    insecure: bool = False,
    progress: Progress = silent,
) -> TransferReport:
    """Make a store with everything that a remote has; the remote is called ``origin`` in it.

    Args:
        url: address of the remote.
        folder: of the new store; by default the user's own. One that an interrupted clone left is completed.
        branch: which branch one's own library begins with.
        insecure: allow plain HTTP.
        progress: called during the work.

    Raises:
        StoreError: there is a store already.
        NotFoundError: there is no library at the address, or no such branch.
        RemoteError: the remote cannot be reached. What came is kept for the next time.
    """
    target = default_store() if folder is None else folder
    opened = _open(NamedRemote("", check_url(url), insecure))
    # Before anything is made.
    wanted_branches(opened, require_refs(opened), [branch])
    repository = open_or_create(target)
    remotes = RemoteList(repository)
    known = remotes.all()
    if repository.branches() or (known and known.keys() != {ORIGIN}):
        raise StoreError(f"There is a library in {target} already.", hint=f"Use skillpack pull {url} to add to it.")
    named = remotes.set_url(ORIGIN, url, insecure=insecure) if known else remotes.add(ORIGIN, url, insecure=insecure)
    opened = _open(named)
    fetched = _fetch(repository, opened, ORIGIN, all_tags=True, progress=progress)
    pulled = _pull(repository, opened, ORIGIN, branches=[branch])
    return TransferReport(
        fetched.url,
        fetched.changes + pulled.changes,
        blobs=fetched.blobs + pulled.blobs,
        nbytes=fetched.nbytes + pulled.nbytes,
        attachments=fetched.attachments + pulled.attachments,
    )


def _find(remote: str, store: StoreLike, *, insecure: bool) -> NamedRemote:
    """The remote of a name, or one without a name for an address."""
    from skillpack.errors import NoStoreError

    try:
        known = RemoteList(open_existing(store)).all()
    except NoStoreError:
        known = {}
    if remote in known:
        found = known[remote]
        return NamedRemote(found.name, found.url, found.insecure or insecure)
    if any(sign in remote for sign in "/\\:.") or remote.startswith("~"):
        return NamedRemote("", check_url(remote), insecure)
    raise UsageError(
        f"There is no remote {remote!r}",
        hint=f"Add it with skillpack remote add {remote} URL; a folder is written with a slash, as ./{remote}.",
    )


def _open(remote: NamedRemote) -> Remote:
    return open_remote(remote.url, **_options(remote))


def _options(remote: NamedRemote) -> dict[str, Any]:
    found: dict[str, Any] = {"insecure": True} if remote.insecure else {}
    if remote.url.startswith("oci:"):
        found["config_files"] = registry_config_files()
    return found


def _summary(repository: Repository, remote: NamedRemote) -> RemoteSummary:
    prefix = f"{remote.name}/"
    branches = {
        name.removeprefix(prefix): str(value.digest)
        for name, value in repository.refs.list("remotes").items()
        if name.startswith(prefix)
    }
    return RemoteSummary(remote.name, remote.url, remote.insecure, branches)


__all__ = [
    "RefChange",
    "RemoteSkill",
    "RemoteSummary",
    "TransferReport",
    "add_remote",
    "clone",
    "fetch",
    "list_remotes",
    "ls_remote",
    "pull",
    "push",
    "remove_remote",
    "set_remote_url",
    "show_remote",
]
