"""Where the bytes of a store are: by skill, what skills share counted once, and what could be freed."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack_store.collecting import Tally, empty_tally
from skillpack_store.marking import Marking
from skillpack_store.roots import find_roots, read_anywhere

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from skillpack_store.repository import Repository

__all__ = ["SkillSize", "StoreSizes", "measure_store"]


@dataclass(frozen=True)
class SkillSize:
    """The bytes of one skill, all its versions together.

    Attributes:
        name: Its name.
        versions: How many distinct digests had the name, on any branch or in any log.
        bytes: Of all that the versions consist of, each blob once.
        own: Of blobs that no skill of another name uses: what is freed when its last version goes.
    """

    name: str
    versions: int
    bytes: int
    own: int


@dataclass(frozen=True)
class StoreSizes:
    """The bytes of a store. ``own`` of the skills, ``shared``, ``history`` and ``unreferenced`` add up to ``blobs``.

    Attributes:
        skills: By name.
        shared: What skills of several names use, each blob once.
        history: Commits and attachments.
        unreferenced: What nothing names; it is collected when its grace is over.
        blobs: All of it.
        trash: What is in the trash.
        quarantine: What a check put aside.
        commits: How many there are.
    """

    skills: list[SkillSize]
    shared: Tally
    history: Tally
    unreferenced: Tally
    blobs: Tally
    trash: Tally
    quarantine: Tally
    commits: int

    @property
    def total(self) -> int:
        """Bytes of blobs, trash and quarantine together."""
        return self.blobs.bytes + self.trash.bytes + self.quarantine.bytes


def measure_store(repository: Repository) -> StoreSizes:
    """Return where the bytes of a store are.

    Raises:
        CorruptStoreError: Something that names blobs cannot be read.
    """
    roots = find_roots(repository, {})
    marking = Marking(lambda digest, limit: read_anywhere(repository, digest, limit), roots.attached)
    for digest, name in roots.named:
        marking.follow(digest, name)
    for digest in roots.foreign:
        marking.try_follow(digest)
    skills, commits = _named(repository, [digest for digest, _ in roots.named])
    sizes = {digest: repository.blobs.peek(digest) or 0 for digest in repository.blobs}
    used_by = _users(repository, skills)
    shared = {blob for blob, names in used_by.items() if len(names) > 1}
    unnamed = sizes.keys() - marking.digests
    return StoreSizes(
        skills=_by_skill(skills, used_by, sizes),
        shared=_tally(sizes, shared),
        history=_tally(sizes, marking.digests - used_by.keys()),
        unreferenced=_tally(sizes, unnamed - used_by.keys()),
        blobs=_tally(sizes, sizes),
        trash=_trash(repository),
        quarantine=_files(repository.path / "quarantine"),
        commits=commits,
    )


def _named(repository: Repository, tips: Iterable[str]) -> tuple[set[tuple[str, str]], int]:
    """Return name and digest of the skills of all commits, and how many commits there are."""
    found: set[tuple[str, str]] = set()
    done: set[str] = set()
    waiting = list(tips)
    while waiting:
        digest = waiting.pop()
        if digest not in done:
            done.add(digest)
            commit = repository.read_commit(digest)
            found.update((name, skill.digest) for name, skill in commit.skills.items())
            waiting += commit.parents
    return found, len(done)


def _users(repository: Repository, skills: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Return blob -> names of the skills that it is part of."""
    used_by: dict[str, set[str]] = defaultdict(set)
    for name, digest in skills:
        manifest = repository.skill_manifest(digest)
        for blob in (digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)):
            used_by[blob].add(name)
    return used_by


def _by_skill(
    skills: Iterable[tuple[str, str]], used_by: dict[str, set[str]], sizes: dict[str, int]
) -> list[SkillSize]:
    versions = Counter(name for name, _ in skills)
    own: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    for blob, names in used_by.items():
        for name in names:
            everything[name] += sizes.get(blob, 0)
            own[name] += sizes.get(blob, 0) if len(names) == 1 else 0
    return [SkillSize(name, count, everything[name], own[name]) for name, count in sorted(versions.items())]


def _tally(sizes: dict[str, int], digests: Iterable[str]) -> Tally:
    found = [sizes[digest] for digest in digests if digest in sizes]
    return Tally(len(found), sum(found))


def _trash(repository: Repository) -> Tally:
    tally = empty_tally()
    for batch in repository.trash.batches():
        for blob in repository.trash.blobs(batch):
            tally = tally.plus(blob.size)
    return tally


def _files(folder: Path) -> Tally:
    tally = empty_tally()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_file():
            tally = tally.plus(path.lstat().st_size)
    return tally
