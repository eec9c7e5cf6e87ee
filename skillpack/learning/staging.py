"""A branch of its own for a skill that is not finished, so that the library's branch does not see it."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skillpack.branching import branch as change_branch
from skillpack.packing import pack
from skillpack.skill import Skill, open_skill
from skillpack.summaries import open_or_create

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from skillpack.progress import Progress
    from skillpack.summaries import StoreLike
    from skillpack_store import Descriptor, Repository


@dataclass(frozen=True)
class Staged:
    """A skill that is packed, but not committed to the library's branch.

    Attributes:
        skill: opened.
        repository: where it is.
        branch: branch that keeps it.
        descriptor: of the skill.
        size: bytes on disk.
    """

    skill: Skill
    repository: Repository
    branch: str
    descriptor: Descriptor
    size: int


class Stage:
    """See `staging`."""

    def __init__(self, repository: Repository, branch: str) -> None:
        self._repository, self._branch = repository, branch

    def pack(self, base: str | Path, tuned: Path, name: str, goal: Mapping[str, Any], progress: Progress) -> Staged:
        """Pack a fine-tune.

        Raises:
            see `skillpack.pack`.
        """
        repository = self._repository
        made = pack(base, tuned, name, **goal, store=repository, branch=self._branch, progress=progress)
        skill = open_skill(repository, made.digest, name)
        descriptor = repository.skills(self._branch)[name]
        return Staged(skill, repository, self._branch, descriptor, made.size)


@contextmanager
def staging(store: StoreLike, folder: Path) -> Iterator[Stage]:
    """Within this, skills can be packed without anybody's branch changing; then the branch that kept them is gone.

    Args:
        store: where.
        folder: of the learner; its path names the branch, so that one that a killed process left is found again.
    """
    repository = open_or_create(store)
    name = "learning-" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:10]
    _drop(repository, name)
    try:
        yield Stage(repository, name)
    finally:
        _drop(repository, name)


def _drop(repository: Repository, name: str) -> None:
    if name in repository.branches():
        change_branch(name, delete=True, store=repository)
