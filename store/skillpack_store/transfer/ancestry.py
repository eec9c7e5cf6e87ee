"""Which commits follow which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack_store.errors import NotFoundError
from skillpack_store.refs import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skillpack_store.repository import Repository

__all__ = ["follows", "rooted"]


def follows(
    repository: Repository,
    tips: Iterable[str],
    ancestor: str,
    parents: Mapping[str, Sequence[str]] | None = None,
) -> bool:
    """Tell whether a commit is among ``tips`` or their ancestors, near ones first.

    Args:
        repository: Where the commits are; the ancestors of one that is not there are passed over.
        tips: Where to start.
        ancestor: What to look for.
        parents: Digest -> parents, of commits that need not be in the store.
    """
    known = parents or {}
    waiting = list(tips)
    seen = set(waiting)
    while waiting:
        following = []
        for digest in waiting:
            if digest == ancestor:
                return True
            try:
                found = known[digest] if digest in known else repository.read_commit(digest).parents
            except NotFoundError:
                continue
            following += [parent for parent in dict.fromkeys(found) if parent not in seen]
            seen.update(found)
        waiting = following
    return False


def rooted(repository: Repository) -> set[str]:
    """Return the commits that the store's own refs name: all that they refer to is there."""
    found = {value.digest for kind in KINDS if kind != "referrers" for value in repository.refs.list(kind).values()}
    return {digest for digest in found if digest is not None and repository.blobs.has(digest)}
