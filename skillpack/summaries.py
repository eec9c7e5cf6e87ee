"""What a library holds, in short: skills with their versions, sizes and who committed them. Opens no skill."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack.settings import default_author, default_store
from skillpack_store import Repository, number_versions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack_store import ResolvedSkill, SkillVersion

StoreLike = Repository | Path | str | None
"""A store, its folder, or None for the user's own."""


@dataclass(frozen=True)
class SkillSummary:
    """A skill in a library.

    Attributes:
        name: of the skill.
        version: its number among the distinct digests that had the name on the branch.
        digest: its identity.
        size: bytes on disk of everything that the digest covers.
        time: when this version was committed, RFC 3339 in UTC.
        author: who committed it.
        message: why.
    """

    name: str
    version: int | None
    digest: str
    size: int
    time: str
    author: str
    message: str


class SkillList(list[SkillSummary]):
    """Skills of a library, which a notebook shows as a table."""

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from skillpack.notebook import list_html

        return list_html(self)


def open_or_create(store: StoreLike) -> Repository:
    """The store, made if it is not there."""
    return store if isinstance(store, Repository) else Repository.open_or_create(_folder(store))


def open_existing(store: StoreLike) -> Repository:
    """The store.

    Raises:
        NoStoreError: there is none.
    """
    return store if isinstance(store, Repository) else Repository.open(_folder(store))


def list_skills(*, store: StoreLike = None, branch: str = "main") -> SkillList:
    """The skills at the head of a branch, sorted by name.

    Raises:
        NoStoreError: there is no store.
    """
    repository = open_existing(store)
    head = repository.head(branch)
    if head is None:
        return SkillList()
    numbered = number_versions(repository, head.digest, head.skills)
    if not all(skill.digest in numbered.get(name, {}) for name, skill in head.skills.items()):
        # Somebody wrote records of commits that are not true.
        repository.graph.forget()
        numbered = number_versions(repository, head.digest, head.skills)
    return SkillList(_of_version(repository, name, numbered[name][skill.digest]) for name, skill in head.skills.items())


def summary_of(repository: Repository, found: ResolvedSkill, branch: str) -> SkillSummary:
    """The summary of a skill that an address was resolved to."""
    head = repository.branches().get(branch)
    versions = number_versions(repository, head, [found.name]).get(found.name, {})
    known = versions.get(found.descriptor.digest)
    if known is not None:
        return _of_version(repository, found.name, known)
    commit = found.commit
    size = repository.skill_manifest(found.descriptor.digest).size
    return SkillSummary(
        found.name, found.version, found.descriptor.digest, size, commit.time, commit.author, commit.message
    )


def label_of(found: ResolvedSkill) -> str:
    """The version as a user addresses it, ``math@3``."""
    return found.name if found.version is None else f"{found.name}@{found.version}"


def signed(author: str | None) -> dict[str, Any]:
    """Who and with what, for a new commit."""
    return {"author": author or default_author(), "tools": tools()}


def tools() -> Mapping[str, str]:
    """Programs and their versions, noted with every commit."""
    names = ("skillpack", "torch", "numpy", "constriction", "zstandard")
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


def _of_version(repository: Repository, name: str, known: SkillVersion) -> SkillSummary:
    size, born = repository.skill_manifest(known.digest).size, known.commit
    return SkillSummary(name, known.number, known.digest, size, born.time, born.author, born.message)


def _folder(store: Path | str | None) -> Path:
    return default_store() if store is None else Path(store)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
