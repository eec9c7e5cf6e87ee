"""The check of a whole store. It trusts nothing: not names, sizes, modes or links; and it deletes nothing."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from skillpack_store import disk
from skillpack_store.blob_files import FileProblem, hash_file, look
from skillpack_store.consequences import with_consequences
from skillpack_store.errors import NoStoreError, StoreError
from skillpack_store.findings import Finding, Problem
from skillpack_store.repository import Repository
from skillpack_store.roots import subject_of
from skillpack_store.surroundings import (
    check_folders,
    check_foreign,
    check_index,
    check_layout,
    check_names,
    check_refs,
)
from skillpack_store.walking import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from skillpack_store.refs import RefValue

__all__ = ["Checked", "Level", "Subset", "check_store"]

Level = Literal["quick", "sizes", "full"]


@dataclass(frozen=True)
class Subset:
    """A part of all blobs: number ``part`` of ``parts`` of about the same size, by digest."""

    part: int
    parts: int

    def __post_init__(self) -> None:
        if not 1 <= self.part <= self.parts <= 1_000_000:
            raise StoreError(
                f"{self.part}/{self.parts} is no part of a whole.", hint="Write 1/5, 2/5 and so on up to 5/5."
            )

    def has(self, digest: str) -> bool:
        """Tell whether the blob with this digest belongs to the part.

        >>> [Subset(part, 2).has("sha256:" + "0" * 64) for part in (1, 2)]
        [True, False]
        """
        return int(digest.removeprefix("sha256:")[:8], 16) % self.parts == self.part - 1


@dataclass
class Checked:
    """What a check looked at and found.

    Attributes:
        level: How thorough it was.
        findings: Errors first, each with its consequences.
        refs: How many refs there are.
        commits: How many commits the refs lead to.
        skills: How many skills these hold.
        blobs: How many blobs there are.
        bytes: Bytes of them.
        hashed: Bytes that were hashed in the full check.
    """

    level: Level
    findings: list[Finding] = field(default_factory=list)
    refs: int = 0
    commits: int = 0
    skills: int = 0
    blobs: int = 0
    bytes: int = 0
    hashed: int = 0

    @property
    def errors(self) -> list[Finding]:
        """Findings that something is lost or wrong."""
        return [finding for finding in self.findings if finding.problem.is_error]

    @property
    def notes(self) -> list[Finding]:
        """Findings of what is unusual and harmless."""
        return [finding for finding in self.findings if not finding.problem.is_error]


def check_store(
    store: Repository | Path,
    *,
    level: Level = "sizes",
    subset: Subset | None = None,
    quarantine: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Checked:
    """Look for everything that can be wrong with a store.

    Args:
        store: The store, or its folder if it may be too damaged to be opened.
        level: ``quick``: the structure; every document that refs lead to is read and hashed, everything that they
            name is there. ``sizes``: also that files have the sizes that documents say. ``full``: also hash every
            blob, those that nothing names and those in the trash included.
        subset: Hash only this part of the blobs in a full check.
        quarantine: Move damaged blobs to the folder ``quarantine``.
        progress: Called now and then with bytes done, bytes in all and what is done.

    Raises:
        NoStoreError: There is no store.
        OSError: A folder cannot be listed, or a file not moved.
    """
    repository = store if isinstance(store, Repository) else Repository(store)
    if not any((repository.path / name).exists() for name in ("oci-layout", "blobs", "refs")):
        raise NoStoreError(f"There is no store in {repository.path}.", hint="Check the path.")
    check = _Check(repository, level, subset, progress)
    check.run()
    if quarantine:
        check.quarantine()
    check.result.findings.sort(key=lambda finding: (not finding.problem.is_error, finding.path, finding.problem.value))
    return check.result


class _Check:
    def __init__(
        self,
        repository: Repository,
        level: Level,
        subset: Subset | None,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.repository = repository
        self.subset = subset
        self._progress = progress
        self.result = Checked(level)
        self.walk = Walk(repository, sizes=level != "quick")
        self.done = self.total = 0

    def run(self) -> None:
        findings = self.result.findings
        findings += check_layout(self.repository)
        folders = list(check_folders(self.repository))
        findings += folders
        if folders:
            # All else would be a consequence of it.
            return
        entries: dict[str, list[RefValue]] = {}
        findings += check_refs(self.repository, entries)
        reported = {ref for finding in findings for ref in finding.affected.refs}
        self.visit(entries)
        findings += check_foreign(self.repository, self.walk)
        self.visit_files()
        damaged_index = any(finding.problem is Problem.INDEX_DAMAGED for finding in findings)
        tips = {values[-1].digest for values in entries.values() if values}
        # The index shows sizes, so a damaged head makes it wrong as well.
        skipped = damaged_index or not tips.isdisjoint(self.walk.broken)
        lost = [] if skipped else list(check_index(self.repository, entries, reported))
        named = {finding.path for finding in lost}
        # A ref that is known to have had entries is not just one that somebody was about to make.
        findings[:] = [found for found in findings if found.problem is not Problem.REF_EMPTY or found.path not in named]
        findings += lost
        findings += check_names(self.repository)
        digests = {ref: [value.digest for value in values if value.digest] for ref, values in entries.items()}
        findings += with_consequences(self.repository, self.walk, digests) if self.walk.broken else []
        findings += self.walk.notes.values()
        self.result.refs = sum(bool(values) and values[-1].digest is not None for values in entries.values())
        self.result.commits, self.result.skills = len(self.walk.parents), len(self.walk.names)

    def visit(self, entries: Mapping[str, list[RefValue]]) -> None:
        """Follow the refs and their logs."""
        self.report("checking documents")
        roots = []
        for ref, values in entries.items():
            digests = [value.digest for value in values if value.digest is not None]
            subject = subject_of(ref)
            if subject is not None:
                self.walk.attached(subject, digests)
            elif not ref.startswith("referrers/"):
                roots += digests
        self.walk.commits(roots)

    def visit_files(self) -> None:
        """Look at every blob that is there, named or not; in a full check, hash it."""
        places = {digest: self.repository.blobs.path(digest) for digest in self.repository.blobs}
        sizes = {digest: self.look(digest, path) for digest, path in places.items()}
        self.result.blobs, self.result.bytes = len(places), sum(sizes.values())
        if self.result.level != "full":
            return
        chosen = [digest for digest in places if self.subset is None or self.subset.has(digest)]
        trashed = [
            blob
            for batch in self.repository.trash.batches()
            for blob in self.repository.trash.blobs(batch)
            if self.subset is None or self.subset.has(blob.digest)
        ]
        self.total = sum(sizes[digest] for digest in chosen) + sum(blob.size for blob in trashed)
        for digest in chosen:
            self.hash(digest, places[digest])
        for blob in trashed:
            self.hash_trashed(blob.digest, blob.path)

    def look(self, digest: str, path: Path) -> int:
        try:
            found = look(path)
        except FileProblem as problem:
            self.walk.damage(digest, problem.problem, problem.detail)
            return 0
        return 0 if found is None else found.size

    def hash(self, digest: str, path: Path) -> None:
        known = self.walk.broken.get(digest)
        if known is not None and known.problem is not Problem.SIZE_MISMATCH:
            return
        try:
            hash_file(path, digest, self.advance)
        except FileProblem as problem:
            self.walk.damage(digest, problem.problem, problem.detail)
        except FileNotFoundError:
            # Collected since it was listed; if it is in use, the walk found it there.
            pass

    def hash_trashed(self, digest: str, path: Path) -> None:
        try:
            if look(path) is not None:
                hash_file(path, digest, self.advance)
        except FileProblem as problem:
            self.result.findings.append(Finding(problem.problem, self.walk.relative(path), problem.detail, digest))
        except FileNotFoundError:
            pass

    def advance(self, count: int) -> None:
        self.done += count
        self.result.hashed += count
        self.report("hashing blobs")

    def report(self, what: str) -> None:
        if self._progress is not None:
            self._progress(min(self.done, self.total), self.total, what)

    def quarantine(self) -> None:
        """Move damaged blobs out of the way."""
        kinds = {Problem.BLOB_DAMAGED, Problem.BLOB_NOT_A_FILE}
        for place, finding in enumerate(self.result.findings):
            if finding.problem in kinds and finding.path.startswith("blobs/"):
                moved = _set_aside(self.repository, finding.digest)
                if moved is not None:
                    self.result.findings[place] = replace(finding, quarantined=self.walk.relative(moved))


def _set_aside(repository: Repository, digest: str) -> Path | None:
    """Move a damaged blob to the quarantine; None if it is gone or somebody has replaced it meanwhile."""
    folder = repository.path / "quarantine"
    disk.make_directory(folder)
    source = repository.blobs.path(digest)
    target = folder / f"{source.name}.{secrets.token_hex(4)}"
    try:
        disk.rename(source, target)
    except FileNotFoundError:
        return None
    disk.sync_directory(folder)
    disk.sync_directory(source.parent)
    with contextlib.suppress(FileProblem):
        if look(target) is not None:
            hash_file(target, digest, lambda _: None)
            # It is intact: somebody stored the content again since it was looked at.
            with contextlib.suppress(FileExistsError):
                disk.link(target, source)
            disk.sync_directory(source.parent)
            disk.unlink(target)
            return None
    return target
