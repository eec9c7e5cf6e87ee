"""Versions: ``math@3`` is the third distinct digest that had the name, along the first parents of a branch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skillpack_store.commit_graph import CommitRecord
    from skillpack_store.repository import Repository

__all__ = ["SkillVersion", "number_versions"]


class SkillVersion(NamedTuple):
    """One version of a skill.

    Attributes:
        number: 1 for the first.
        digest: The skill's.
        commit: The one that brought it.
    """

    number: int
    digest: str
    commit: CommitRecord


def number_versions(
    repository: Repository, head: str | None, names: Iterable[str] | None = None
) -> dict[str, dict[str, SkillVersion]]:
    """Return name -> digest -> version, oldest first, of every skill that a line of history ever had.

    Args:
        repository: The store.
        head: Digest of the newest commit of the line; None for no history.
        names: The skills that matter; None for all.
    """
    if head is None:
        return {}
    wanted = None if names is None else set(names)
    versions: dict[str, dict[str, SkillVersion]] = {}
    for record in reversed(list(repository.graph.first_parents(head))):
        for name, (_, digest) in record.changes[0].items():
            if digest is not None and (wanted is None or name in wanted):
                known = versions.setdefault(name, {})
                if digest not in known:
                    known[digest] = SkillVersion(len(known) + 1, digest, record)
    repository.graph.settle()
    return versions
