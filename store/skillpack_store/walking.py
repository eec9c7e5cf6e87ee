"""The walk of a check: from the refs through every document, each read, hashed and parsed once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from skillpack_store.blob_files import FileProblem, hash_file, look, read_file
from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor
from skillpack_store.documents import EMPTY, Attachment, Commit, SkillManifest, parse_index
from skillpack_store.findings import Finding, Problem
from skillpack_store.marking import references

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from skillpack_store.repository import Repository

__all__ = ["Commits", "Walk"]

T = TypeVar("T")


class Commits(NamedTuple):
    """What was read of a commit: its parents and its skills' digests."""

    parents: tuple[str, ...]
    skills: tuple[str, ...]


class Walk:
    """Visits everything that a store's refs name, and keeps what is wrong with it.

    Memory grows with the number of blobs, and with nothing else.

    Args:
        repository: The store.
        sizes: Compare the sizes of files with what the documents say.

    Attributes:
        broken: Digest of a blob -> what is wrong with it; one finding a blob.
        notes: Findings that break nothing.
        parents: Commit -> its parents.
        names: Skill -> a name that a commit gives it.
        seen: Digests that were named by anything.
    """

    def __init__(self, repository: Repository, *, sizes: bool) -> None:
        self.broken: dict[str, Finding] = {}
        self.notes: dict[str, Finding] = {}
        self.parents: dict[str, tuple[str, ...]] = {}
        self.names: dict[str, str] = {}
        self.attachments: dict[str, None] = {}
        self.seen: set[str] = set()
        self._repository = repository
        self._sizes = sizes
        self._done: set[tuple[str, str]] = set()
        self._lists: dict[str, list[str]] = {}
        self._compared: dict[str, int] = {}

    def attached(self, subject: str, lists: Iterable[str]) -> None:
        """Announce the lists of what is attached to a subject; they are visited if the subject is named."""
        self._lists[subject] = list(lists)

    def commits(self, roots: Iterable[str]) -> None:
        """Visit commits and all that they lead to."""
        waiting = list(roots)
        while waiting:
            digest = waiting.pop()
            commit = self._document(digest, None, "commit", Commit.parse)
            if commit is None:
                continue
            self.parents[digest] = commit.parents
            for name, skill in commit.skills.items():
                self.names.setdefault(skill.digest, name)
                self._skill(skill)
            waiting += commit.parents

    def foreign(self, blob: Descriptor) -> str | None:
        """Visit a blob that another tool names, and what it leads to.

        Returns:
            The media type that the blob gives itself; None if it is not a document or gives none.
        """
        self._leaf(blob)
        waiting, found = [blob.digest], None
        while waiting:
            digest = waiting.pop()
            if (digest, "foreign") in self._done:
                continue
            self._done.add((digest, "foreign"))
            try:
                data = read_file(self._repository.blobs.path(digest), digest, DOCUMENT_LIMIT)
                named = references(data)
            except (FileProblem, ValueError, FileNotFoundError):
                # What is missing below is not ours to judge: other formats may leave things out.
                continue
            if digest == blob.digest:
                found = _media_type(data)
            self.seen |= named.others
            self.seen |= named.documents
            waiting += named.documents
        return found

    def note(self, problem: Problem, path: str, detail: str, digest: str = "") -> None:
        """Keep a finding that is about a path."""
        self.notes.setdefault(f"{problem.value} {path}", Finding(problem, path, detail, digest))

    def damage(self, digest: str, problem: Problem, detail: str) -> None:
        """Keep what is wrong with a blob, if nothing was wrong with it before."""
        if digest not in self.broken:
            place = self._repository.blobs.path(digest)
            self.broken[digest] = Finding(problem, self.relative(place), detail, digest)

    def relative(self, path: Path) -> str:
        """Return a path as findings give it."""
        return path.relative_to(self._repository.path).as_posix()

    def _skill(self, skill: Descriptor) -> None:
        if (skill.digest, "skill") in self._done:
            self._compare_size(skill)
            return
        manifest = self._document(skill.digest, skill, "skill", SkillManifest.parse)
        for blob in [] if manifest is None else (manifest.config, *manifest.layers):
            self._leaf(blob)
        self._attachments(skill.digest)

    def _attachments(self, subject: str) -> None:
        for listed in self._lists.get(subject, ()):
            for entry in self._document(listed, None, "list", parse_index) or ():
                first = (entry.digest, "attachment") not in self._done
                attachment = self._document(entry.digest, entry, "attachment", Attachment.parse)
                if attachment is not None and attachment.subject.digest != subject:
                    detail = f"It is attached to {attachment.subject.digest}, but listed for {subject}."
                    self.damage(entry.digest, Problem.DOCUMENT_MALFORMED, detail)
                for file in [] if attachment is None else (EMPTY, *attachment.files):
                    self._leaf(file)
                self.attachments[entry.digest] = None
                if first:
                    # A signature of a model card, for example.
                    self._attachments(entry.digest)

    def _leaf(self, blob: Descriptor) -> None:
        if blob.digest not in self.seen:
            self.seen.add(blob.digest)
            self._place(blob.digest)
        self._compare_size(blob)

    def _document(self, digest: str, named: Descriptor | None, role: str, parse: Callable[[bytes], T]) -> T | None:
        """Return a document at the first visit in this role; None later on, or if something is wrong with it."""
        if (digest, role) in self._done:
            return None
        self._done.add((digest, role))
        self.seen.add(digest)
        path = self._place(digest)
        if path is None or digest in self.broken:
            return None
        try:
            parsed = parse(read_file(path, digest, DOCUMENT_LIMIT))
        except FileProblem as found:
            self.damage(digest, found.problem, found.detail)
        except FileNotFoundError:
            self.damage(digest, Problem.BLOB_MISSING, "It was there when the check began.")
        except ValueError as error:
            self.damage(digest, Problem.DOCUMENT_MALFORMED, f"As a {role} it cannot be used: {error}.")
        else:
            if named is not None:
                self._compare_size(named, force=True)
            return parsed
        return None

    def _place(self, digest: str) -> Path | None:
        """Return the file of a blob; None if there is none, which is then kept as a finding."""
        path = self._repository.blobs.path(digest)
        try:
            if look(path) is not None:
                return path
        except FileProblem as found:
            self.damage(digest, found.problem, found.detail)
            return None
        trashed = self._repository.trash.find(digest)
        if trashed is None:
            # Somebody may have taken it back in between.
            if path.is_file():
                return path
            self.damage(digest, Problem.BLOB_MISSING, "It is named, but it is not there.")
        else:
            self.note(
                Problem.BLOB_IN_TRASH, self.relative(trashed), "It is in use, and comes back when needed.", digest
            )
        return trashed

    def _compare_size(self, blob: Descriptor, *, force: bool = False) -> None:
        if not (self._sizes or force) or blob.digest in self.broken or self._compared.get(blob.digest) == blob.size:
            return
        self._compared[blob.digest] = blob.size
        path = self._repository.blobs.path(blob.digest)
        file = look(path)
        if file is None or file.size == blob.size:
            return
        try:
            hash_file(path, blob.digest, lambda _: None)
        except FileProblem as found:
            self.damage(blob.digest, found.problem, found.detail)
        except FileNotFoundError:
            pass
        else:
            detail = f"A document says that it has {blob.size} bytes; it has {file.size}, and they are intact."
            self.damage(blob.digest, Problem.SIZE_MISMATCH, detail)


def _media_type(data: bytes) -> str | None:
    found = json.loads(data).get("mediaType")
    return found if isinstance(found, str) else None
