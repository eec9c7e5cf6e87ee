"""From an address to a skill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack_store.addresses import Address, parse_address
from skillpack_store.commits import find_head, walk_history
from skillpack_store.errors import NotFoundError, StoreError
from skillpack_store.names import choices

if TYPE_CHECKING:
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.documents import Commit
    from skillpack_store.repository import Repository

__all__ = ["ResolvedSkill", "resolve_address"]


@dataclass(frozen=True)
class ResolvedSkill:
    """The skill that an address means.

    Attributes:
        name: The skill's name.
        version: Its number in the history of the branch; None if it was never on that branch (only by a tag).
        descriptor: The skill's manifest.
        commit: Where it was found: the head for a plain name, the tagged commit for a tag, else the commit that
            brought it.
    """

    name: str
    version: int | None
    descriptor: Descriptor
    commit: Commit


def resolve_address(repository: Repository, address: Address | str, branch: str) -> ResolvedSkill:
    """See ``Repository.resolve``."""
    if isinstance(address, str):
        address = parse_address(address)
    if address.tag is not None:
        return _by_tag(repository, address.name, address.tag, branch)
    versions = _versions(repository, address.name, branch)
    if address.version is not None:
        return _by_version(versions, address.name, address.version, branch)
    if address.digest is not None:
        return _by_digest(versions, address.name, address.digest, branch)
    return _newest(repository, versions, address.name, branch)


def _versions(repository: Repository, name: str, branch: str) -> list[ResolvedSkill]:
    """Return the distinct skills that had the name, oldest first; never empty."""
    commits = list(walk_history(repository, branch))
    if not commits:
        branches = repository.branches()
        raise NotFoundError(f"There is no branch {branch!r}.", hint=choices(branch, branches, "branch"))
    found: dict[str, ResolvedSkill] = {}
    for commit in reversed(commits):
        skill = commit.skills.get(name)
        if skill is not None and skill.digest not in found:
            found[skill.digest] = ResolvedSkill(name, len(found) + 1, skill, commit)
    if not found:
        hint = choices(name, commits[0].skills, "skill")
        raise NotFoundError(f"There is no skill {name!r} on branch {branch}.", hint=hint)
    return list(found.values())


def _newest(repository: Repository, versions: list[ResolvedSkill], name: str, branch: str) -> ResolvedSkill:
    head = find_head(repository, branch)
    if head is None or name not in head.skills:
        last = versions[-1].version
        raise NotFoundError(
            f"The skill {name!r} was deleted from branch {branch}.",
            hint=f"Its versions are still there: {name}@{last} is the last one.",
        )
    skill = head.skills[name]
    return ResolvedSkill(name, _number(versions, skill.digest), skill, head)


def _by_version(versions: list[ResolvedSkill], name: str, number: int, branch: str) -> ResolvedSkill:
    if number > len(versions):
        known = f"{name}@1" if len(versions) == 1 else f"{name}@1 to {name}@{len(versions)}"
        raise NotFoundError(
            f"There is no version {number} of skill {name!r} on branch {branch}.",
            hint=f"There is {known}.",
        )
    return versions[number - 1]


def _by_digest(versions: list[ResolvedSkill], name: str, prefix: str, branch: str) -> ResolvedSkill:
    found = [version for version in versions if version.descriptor.digest.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{name}@{version.version} is {version.descriptor.digest[:19]}" for version in versions[-20:])
    if not found:
        message = f"No version of skill {name!r} on branch {branch} has a digest that starts with {prefix}."
        raise NotFoundError(message, hint=f"{known}.")
    raise StoreError(f"{len(found)} versions of skill {name!r} have a digest that starts with {prefix}.", hint=known)


def _by_tag(repository: Repository, name: str, tag: str, branch: str) -> ResolvedSkill:
    tags = repository.tags()
    if tag not in tags:
        raise NotFoundError(f"There is no tag {tag!r}.", hint=choices(tag, tags, "tag"))
    commit = repository.read_commit(tags[tag])
    if name not in commit.skills:
        hint = choices(name, commit.skills, "skill")
        raise NotFoundError(f"There is no skill {name!r} in the commit with tag {tag}.", hint=hint)
    skill = commit.skills[name]
    try:
        number = _number(_versions(repository, name, branch), skill.digest)
    except NotFoundError:
        number = None
    return ResolvedSkill(name, number, skill, commit)


def _number(versions: list[ResolvedSkill], digest: str) -> int | None:
    return next((version.version for version in versions if version.descriptor.digest == digest), None)
