"""The history of a library: every commit before one, newest first, over all parents."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack_store.errors import CorruptStoreError, NotFoundError
from skillpack_store.revisions import find_ref

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skillpack_store.commit_graph import CommitRecord
    from skillpack_store.refs import RefValue
    from skillpack_store.repository import Repository

__all__ = ["RefEntry", "ref_log", "skill_records", "sorted_records"]


@dataclass(frozen=True)
class RefEntry:
    """One line of a ref log.

    Attributes:
        ref: The ref, ``heads/…``, ``tags/…`` or ``remotes/<remote>/…``.
        position: 0 for what it names now, 1 for what it named before that, and so on.
        value: The entry.
        message: Of the commit that it names; empty if it names none, or one that is not in the store any more.
    """

    ref: str
    position: int
    value: RefValue
    message: str


def sorted_records(repository: Repository, head: str) -> Iterator[CommitRecord]:
    """Yield the records of a commit and of all before it: every commit before its parents, newest first.

    The order of two commits that do not follow one another is that of their times, whatever clocks said to those that
    do. Lines of one time stay together.
    """
    records = repository.graph.ancestors(head)
    repository.graph.settle()
    children = Counter(parent for record in records.values() for parent in record.parents)
    times = {time: rank for rank, time in enumerate(sorted({record.time for record in records.values()}))}
    ready = [(-times[records[head].time], 0, head)]
    turn = 0
    while ready:
        record = records[heapq.heappop(ready)[2]]
        yield record
        for parent in reversed(record.parents):
            children[parent] -= 1
            if not children[parent]:
                turn -= 1
                heapq.heappush(ready, (-times[records[parent].time], turn, parent))


def skill_records(records: Iterable[CommitRecord], name: str) -> Iterator[CommitRecord]:
    """Yield those of the records in which a skill is not as in any of the parents.

    So a merge is left out if it took the skill from one side, because the commits of that side are there.
    """
    for record in records:
        if all(name in change for change in record.changes):
            yield record


def ref_log(repository: Repository, name: str, limit: int | None = None) -> list[RefEntry]:
    """Return what a branch or tag named, newest first, also of one that was deleted.

    Args:
        repository: The store.
        name: The branch, tag or branch of a remote, with or without its kind.
        limit: How many entries at most; None for all.

    Raises:
        NotFoundError: There never was such a ref.
    """
    ref = find_ref(repository, name, deleted=True)
    log = repository.refs.log(ref)[:limit]
    return [RefEntry(ref, position, value, _message(repository, value)) for position, value in enumerate(log)]


def _message(repository: Repository, value: RefValue) -> str:
    if value.digest is None:
        return ""
    try:
        return repository.graph.get(value.digest).message
    except (NotFoundError, CorruptStoreError):
        return ""
