"""From an address to a skill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack_store.addresses import Address, parse_address
from skillpack_store.commits import require_head
from skillpack_store.errors import NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref
from skillpack_store.versions import number_versions

if TYPE_CHECKING:
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.documents import Commit
    from skillpack_store.repository import Repository
    from skillpack_store.versions import SkillVersion

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


class _WrongRecordError(Exception):
    """A record of the commit graph does not say what its commit says."""


def resolve_address(repository: Repository, address: Address | str, branch: str) -> ResolvedSkill:
    """See ``Repository.resolve``."""
    if isinstance(address, str):
        address = parse_address(address)
    try:
        return _resolve(repository, address, branch)
    except _WrongRecordError:
        repository.graph.forget()
        return _resolve(repository, address, branch)


def _resolve(repository: Repository, address: Address, branch: str) -> ResolvedSkill:
    if address.tag is not None:
        return _by_tag(repository, address.name, address.tag, branch)
    head, versions = _versions(repository, address.name, branch)
    if address.version is not None:
        return _found(repository, address.name, _by_number(versions, address.name, address.version, branch))
    if address.digest is not None:
        return _found(repository, address.name, _by_digest(versions, address.name, address.digest, branch))
    return _newest(head, versions, address.name, branch)


def _versions(repository: Repository, name: str, branch: str) -> tuple[Commit, dict[str, SkillVersion]]:
    """Return the head, and the distinct skills that had the name by digest, oldest first; never none."""
    head = require_head(repository, branch)
    found = number_versions(repository, head.digest, [name]).get(name, {})
    if not found:
        hint = choices(name, head.skills, "skill")
        raise NotFoundError(f"There is no skill {name!r} on branch {branch}.", hint=hint)
    return head, found


def _found(repository: Repository, name: str, version: SkillVersion) -> ResolvedSkill:
    """Return a version as its own commit says it is, whatever the graph says."""
    commit = repository.read_commit(version.commit.digest)
    skill = commit.skills.get(name)
    if skill is None or skill.digest != version.digest:
        raise _WrongRecordError(version.commit.digest)
    return ResolvedSkill(name, version.number, skill, commit)


def _newest(head: Commit, versions: dict[str, SkillVersion], name: str, branch: str) -> ResolvedSkill:
    if name not in head.skills:
        raise NotFoundError(
            f"The skill {name!r} was deleted from branch {branch}.",
            hint=f"Its versions are still there: {name}@{len(versions)} is the last one.",
        )
    skill = head.skills[name]
    if skill.digest not in versions:
        raise _WrongRecordError(head.digest)
    return ResolvedSkill(name, versions[skill.digest].number, skill, head)


def _by_number(versions: dict[str, SkillVersion], name: str, number: int, branch: str) -> SkillVersion:
    if number > len(versions):
        known = f"{name}@1" if len(versions) == 1 else f"{name}@1 to {name}@{len(versions)}"
        raise NotFoundError(
            f"There is no version {number} of skill {name!r} on branch {branch}.",
            hint=f"There is {known}.",
        )
    return list(versions.values())[number - 1]


def _by_digest(versions: dict[str, SkillVersion], name: str, prefix: str, branch: str) -> SkillVersion:
    found = [version for version in versions.values() if version.digest.startswith(prefix)]
    if len(found) == 1:
        return found[0]
    newest = list(versions.values())[-20:]
    known = ", ".join(f"{name}@{version.number} is {version.digest[:19]}" for version in newest)
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
    value = repository.refs.read(f"heads/{check_ref(branch)}")
    head = None if value is None else value.digest
    version = number_versions(repository, head, [name]).get(name, {}).get(skill.digest)
    return ResolvedSkill(name, None if version is None else version.number, skill, commit)
