"""Commits of a library: adding one, walking back, tagging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack_store.documents import Commit, rfc3339
from skillpack_store.errors import BusyError, NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref, retry_busy
from skillpack_store.securing import secure_commit, secure_skill
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from skillpack_store.descriptors import Descriptor
    from skillpack_store.repository import Repository

__all__ = ["add_commit", "add_tag", "append_commit", "delete_skill", "find_head", "walk_history"]


def add_commit(
    repository: Repository,
    branch: str,
    change: Callable[[dict[str, Descriptor]], dict[str, Descriptor]],
    *,
    author: str,
    message: str,
    tools: Mapping[str, str],
    time: datetime | None = None,
) -> Commit:
    """See ``Repository.commit``."""
    with repository.writing():
        return _add_commit(repository, branch, change, author=author, message=message, tools=tools, time=time)


def _add_commit(
    repository: Repository,
    branch: str,
    change: Callable[[dict[str, Descriptor]], dict[str, Descriptor]],
    *,
    author: str,
    message: str,
    tools: Mapping[str, str],
    time: datetime | None,
) -> Commit:
    ref = f"heads/{check_ref(branch)}"

    def attempt() -> Commit:
        head = find_head(repository, branch)
        before = {} if head is None else head.skills
        after = change(dict(before))
        if head is not None and _digests(after) == _digests(before):
            return head
        for name, skill in after.items():
            if name not in before or before[name].digest != skill.digest:
                secure_skill(repository, skill)
        parents = [] if head is None else [head]
        return append_commit(repository, ref, after, parents, author=author, message=message, tools=tools, time=time)

    commit = retry_busy(attempt)
    refresh_index(repository)
    return commit


def append_commit(
    repository: Repository,
    ref: str,
    skills: Mapping[str, Descriptor],
    parents: Sequence[Commit],
    *,
    author: str,
    message: str,
    tools: Mapping[str, str],
    time: datetime | None = None,
) -> Commit:
    """Store a commit and move a branch from its first parent to it.

    Args:
        repository: The store.
        ref: The branch, ``heads/…``.
        skills: The library as it shall be; complete in the store.
        parents: What it follows; the first is what the branch must name now, none if it must not exist.
        author: Who.
        message: Why.
        tools: Program -> version.
        time: When; default now.

    Raises:
        BusyError: The branch names something else by now. It was not changed.
    """
    data = Commit.build(
        skills,
        parents=[parent.digest for parent in parents],
        author=_encodable(author),
        time=rfc3339(time),
        message=_encodable(message),
        tools=tools,
    )
    digest = repository.blobs.put([data]).digest
    repository.refs.update(ref, digest, expected=parents[0].digest if parents else None)
    commit = Commit.parse(data)
    repository.graph.note(commit, parents)
    repository.graph.settle()
    return commit


def delete_skill(
    repository: Repository, name: str, branch: str, *, author: str, message: str, tools: Mapping[str, str]
) -> Commit:
    """See ``Repository.delete``."""

    def without(skills: dict[str, Descriptor]) -> dict[str, Descriptor]:
        if name not in skills:
            raise NotFoundError(f"There is no skill {name!r} on branch {branch}.", hint=choices(name, skills, "skill"))
        del skills[name]
        return skills

    return add_commit(repository, branch, without, author=author, message=message or f"Delete {name}", tools=tools)


def find_head(repository: Repository, branch: str) -> Commit | None:
    """See ``Repository.head``."""
    value = repository.refs.read(f"heads/{check_ref(branch)}")
    return None if value is None or value.digest is None else repository.read_commit(value.digest)


def require_head(repository: Repository, branch: str) -> Commit:
    """Return the newest commit of a branch; raises ``NotFoundError`` if there is no such branch."""
    head = find_head(repository, branch)
    if head is None:
        branches = repository.branches()
        raise NotFoundError(f"There is no branch {branch!r}.", hint=choices(branch, branches, "branch"))
    return head


def walk_history(repository: Repository, branch: str) -> Iterator[Commit]:
    """See ``Repository.history``."""
    commit = find_head(repository, branch)
    while commit is not None:
        yield commit
        commit = repository.read_commit(commit.parents[0]) if commit.parents else None


def add_tag(repository: Repository, name: str, commit: Commit | str, *, move: bool) -> None:
    """See ``Repository.tag``."""
    with repository.writing():
        _add_tag(repository, name, commit if isinstance(commit, str) else commit.digest, move=move)


def _add_tag(repository: Repository, name: str, digest: str, *, move: bool) -> None:
    secure_commit(repository, digest)
    ref = f"tags/{check_ref(name)}"
    found = repository.refs.read(ref)
    if found is None or (move and found.digest != digest):
        try:
            repository.refs.update(ref, digest, expected=None if found is None else found.digest)
        except BusyError:
            # Somebody else set it meanwhile, possibly to the same commit.
            found = repository.refs.read(ref)
            if found is None or found.digest != digest:
                raise
    elif found.digest != digest:
        raise StoreError(
            f"The tag {name} exists and names commit {found.digest}.",
            hint="Choose another name, or ask for the tag to be moved.",
        )
    refresh_index(repository)


def _digests(skills: Mapping[str, Descriptor]) -> dict[str, str]:
    return {name: skill.digest for name, skill in skills.items()}


def _encodable(text: str) -> str:
    """Replace what came from bytes that are not UTF-8, as a message typed on a command line may."""
    return text.encode("utf-8", "replace").decode()
