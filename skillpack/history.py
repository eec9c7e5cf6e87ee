"""The history of a library, to look at: the log, and the logs of its branches and tags."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from skillpack.summaries import open_existing
from skillpack_store import (
    NotFoundError,
    check_skill_name,
    number_versions,
    ref_log,
    resolve_revision,
    skill_records,
    sorted_records,
)
from skillpack_store.names import choices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.summaries import StoreLike
    from skillpack_store import CommitRecord, Repository, SkillVersion


@dataclass(frozen=True)
class LogEntry:
    """One commit.

    Attributes:
        digest: of the commit.
        parents: digests of the commits that it follows, the one it was made on first.
        time: when, RFC 3339 in UTC.
        author: who.
        message: why.
        refs: branches and tags that name it, sorted.
        added: names of skills that its first parent does not have.
        removed: names of skills that only its first parent has.
        changed: names of skills that are different there.
        version: of the one skill that was asked for, as the branch counts them; None if it was never on its line of
            first parents, or the commit removed the skill.
        size: bytes on disk of that version; None likewise.
    """

    digest: str
    parents: tuple[str, ...]
    time: str
    author: str
    message: str
    refs: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    version: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class RefLogEntry:
    """One change of a branch or a tag.

    Attributes:
        ref: its full name, ``heads/…``, ``tags/…`` or ``remotes/<remote>/…``.
        revision: how to name the commit, such as ``main@{2}``.
        digest: of the commit that it named from then on; None if it was deleted.
        time: when, RFC 3339 in UTC.
        message: of the commit; empty if there is none, or it is not in the store any more.
    """

    ref: str
    revision: str
    digest: str | None
    time: str
    message: str


def log(
    skill: str | None = None,
    *,
    revision: str | None = None,
    limit: int | None = None,
    store: StoreLike = None,
    branch: str = "main",
) -> list[LogEntry]:
    """The commits of a library, newest first and every commit before its parents, over all parents.

    Args:
        skill: only commits that changed the skill of this name, with version and size.
        revision: where to start; by default at the head of the branch.
        limit: how many commits at most.
        store: where.
        branch: branch of the library.

    Raises:
        NotFoundError: there is no such branch, commit or skill.
    """
    repository = open_existing(store)
    head = resolve_revision(repository, revision or f"heads/{branch}")
    records = sorted_records(repository, head)
    names = _names(repository)
    if skill is None:
        return [_entry(record, names) for record in islice(records, limit)]
    found = list(islice(skill_records(records, check_skill_name(skill)), limit))
    numbered = number_versions(repository, head)
    if not found and limit != 0:
        raise NotFoundError(f"There is no skill {skill!r} in this history.", hint=choices(skill, numbered, "skill"))
    return [_skill_entry(repository, record, names, skill, numbered.get(skill, {})) for record in found]


def reflog(ref: str = "main", *, limit: int | None = None, store: StoreLike = None) -> list[RefLogEntry]:
    """What a branch or tag named, newest first, also of one that was deleted.

    Args:
        ref: branch, tag or ``origin/main``; ``heads/…`` or ``tags/…`` where both have the name.
        limit: how many entries at most.
        store: where.

    Raises:
        NotFoundError: there never was such a branch or tag.
    """
    entries = ref_log(open_existing(store), ref, limit)
    return [
        RefLogEntry(entry.ref, f"{ref}@{{{entry.position}}}", entry.value.digest, entry.value.time, entry.message)
        for entry in entries
    ]


def _names(repository: Repository) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for found in (repository.branches(), repository.tags()):
        for name, digest in found.items():
            names.setdefault(digest, []).append(name)
    return names


def _entry(record: CommitRecord, names: Mapping[str, list[str]]) -> LogEntry:
    changes = record.changes[0].items()
    return LogEntry(
        digest=record.digest,
        parents=record.parents,
        time=record.time,
        author=record.author,
        message=record.message,
        refs=tuple(sorted(set(names.get(record.digest, ())))),
        added=tuple(name for name, (before, _) in changes if before is None),
        removed=tuple(name for name, (_, after) in changes if after is None),
        changed=tuple(name for name, pair in changes if None not in pair),
    )


def _skill_entry(
    repository: Repository,
    record: CommitRecord,
    names: Mapping[str, list[str]],
    skill: str,
    versions: Mapping[str, SkillVersion],
) -> LogEntry:
    digest = record.changes[0][skill][1]
    if digest is None:
        return _entry(record, names)
    known = versions.get(digest)
    size = repository.skill_manifest(digest).size
    return LogEntry(**{**vars(_entry(record, names)), "version": known and known.number, "size": size})
