"""Making something that nothing names live again, while a garbage collection may run."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from skillpack_store import disk
from skillpack_store.commits import require_complete

if TYPE_CHECKING:
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.repository import Repository

__all__ = ["revive_commit", "revive_skill"]


def revive_skill(repository: Repository, skill: Descriptor) -> None:
    """See to it that a skill is there and stays for the grace period of a garbage collection.

    Modification times are refreshed before it is looked at: a collection that did not see the new time had removed
    the blob by then.

    Raises:
        NotFoundError: A part of it is not in the store any more.
        CorruptStoreError: A part of it has another size, or its manifest cannot be read.
    """
    _refresh(repository, skill.digest)
    manifest = repository.skill_manifest(skill.digest)
    for blob in (manifest.config, *manifest.layers):
        _refresh(repository, blob.digest)
    require_complete(repository, skill)


def revive_commit(repository: Repository, digest: str) -> None:
    """Do the same for a commit and everything before it, as far as no branch or tag names it anyway.

    Raises:
        NotFoundError: Something of it is not in the store any more.
        CorruptStoreError: Something of it is damaged.
    """
    tips = {*repository.branches().values(), *repository.tags().values()}
    if digest in tips:
        return
    live = repository.graph.ancestors(*tips)
    seen: set[str] = set()
    waiting = [digest]
    while waiting:
        reached = waiting.pop()
        if reached in live or reached in seen:
            continue
        seen.add(reached)
        _refresh(repository, reached)
        commit = repository.read_commit(reached)
        waiting.extend(commit.parents)
        for skill in commit.skills.values():
            if skill.digest not in seen:
                seen.add(skill.digest)
                revive_skill(repository, skill)


def _refresh(repository: Repository, digest: str) -> None:
    # A file of somebody else's has to be found in place below, that is all.
    with contextlib.suppress(OSError):
        disk.touch(repository.blobs.path(digest))
