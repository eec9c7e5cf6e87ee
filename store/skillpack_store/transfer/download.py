"""Bringing commits, skills and attachments from a remote into the store: children first, nothing that is there."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from skillpack_store.descriptors import Descriptor, digest_of
from skillpack_store.documents import INDEX, MANIFEST, Commit, SkillManifest, attached_files
from skillpack_store.errors import NotFoundError
from skillpack_store.referrers import list_referrers, merge_referrers, referrers_tag, tagged_subject
from skillpack_store.transfer.ancestry import follows, rooted
from skillpack_store.transfer.arriving import download, of_unknown_size, read_document, read_list, understood
from skillpack_store.transfer.incoming import Incoming
from skillpack_store.transfer.trying import Meter, in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    from skillpack_store.remotes.protocol import Remote
    from skillpack_store.repository import Repository

__all__ = ["Download"]

T = TypeVar("T")


class Download:
    """One fetch: first it is planned, which reads documents only, then ``run``; use it as a context.

    Args:
        repository: Where things go.
        remote: Where they come from.
        jobs: Connections at a time.
        progress: Called with bytes done, bytes in total, and what is being done.
        dry_run: Change nothing in the store.

    Attributes:
        parents: Digest -> digests of the parents, of the commits that were looked at.
    """

    def __init__(
        self,
        repository: Repository,
        remote: Remote,
        *,
        jobs: int,
        progress: Callable[[int, int, str], None],
        dry_run: bool = False,
    ) -> None:
        self._repository, self._remote, self._jobs, self._progress = repository, remote, jobs, progress
        self._dry_run = dry_run
        self._temporary = tempfile.TemporaryDirectory() if dry_run else contextlib.nullcontext("")
        self._incoming = Incoming(repository.path / "incoming")
        self._planning = Meter(progress, "looking at what is new", 0)
        self._documents: dict[str, tuple[Path, int]] = {}
        self._manifests: list[str] = []
        self._commits: list[str] = []
        self._lists: dict[str, list[Descriptor]] = {}
        self._blobs: dict[str, Descriptor] = {}
        self._looked_at: set[str] = set()
        self.parents: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> Self:
        folder = self._temporary.__enter__()
        if self._dry_run:
            self._incoming = Incoming(Path(folder))
        return self

    def __exit__(self, *error: object) -> None:
        self._temporary.__exit__(None, None, None)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is not in the store."""
        return sum(size for _, size in self._documents.values()) + sum(blob.size for blob in self._blobs.values())

    @property
    def blobs(self) -> int:
        """How many blobs are not in the store."""
        return len(self._documents) + len(self._blobs)

    @property
    def attachments(self) -> int:
        """How many attachments are not listed in the store."""
        return sum(len(entries) for entries in self._lists.values())

    def add_history(self, tips: Iterable[str]) -> None:
        """Plan for commits with all that they refer to, parents included."""
        roots = rooted(self._repository)
        wanted: dict[str, Descriptor] = {}
        known: set[str] = set()
        for tip in tips:
            if not (self._repository.blobs.has(tip) and follows(self._repository, roots, tip)):
                self._walk(tip, roots, wanted, known)
        # What the store's own commits refer to is there.
        self.add_skills(skill for digest, skill in wanted.items() if digest not in known)

    def add_skills(self, skills: Iterable[Descriptor]) -> None:
        """Plan for skills."""
        fresh = [skill for skill in skills if self._first_look(skill.digest)]
        in_parallel(self._add_skill, fresh, self._jobs, self._planning)

    def add_attachments(self, refs: Mapping[str, str]) -> None:
        """Plan for what is attached to anything that is in the store or planned for.

        Args:
            refs: The refs of the remote.
        """
        lists = {ref.removeprefix("referrers/"): digest for ref, digest in refs.items() if ref.startswith("referrers/")}
        found = True
        while found:
            # An attachment may have attachments of its own.
            ready = [tag for tag in lists if tag.startswith("sha256-") and self.will_have(tagged_subject(tag))]
            found = bool(ready)
            for tag in ready:
                self._add_list(tagged_subject(tag), lists.pop(tag))

    def run(self) -> None:
        """Store everything that was planned for: content, then what refers to it, then what refers to that."""
        meter = Meter(self._progress, "receiving", sum(blob.size for blob in self._blobs.values()))

        def receive(blob: Descriptor) -> None:
            part = download(self._remote, blob, self._incoming, meter.advance)
            self._incoming.settle(part, blob.digest, self._repository.blobs)

        in_parallel(receive, self._blobs.values(), self._jobs, meter)
        for digest in [*self._manifests, *self._commits]:
            if digest in self._documents:
                self._incoming.settle(self._documents[digest][0], digest, self._repository.blobs)
            else:
                self._repository.blobs.refresh(digest)
        merge_referrers(self._repository, self._lists)

    def peek(self, digest: str) -> Commit:
        """Return a commit of the store or the remote, for which nothing is planned."""
        with contextlib.suppress(NotFoundError):
            return self._repository.read_commit(digest)
        data = read_document(self._remote, of_unknown_size(digest, INDEX))
        return understood(self._remote, digest, data, Commit.parse)

    def _walk(self, tip: str, roots: set[str], wanted: dict[str, Descriptor], known: set[str]) -> None:
        """Plan for a commit and its ancestors, parents before children, down to commits that are rooted."""
        waiting = [(tip, False)]
        while waiting:
            digest, parents_done = waiting.pop()
            if parents_done:
                self._commits.append(digest)
            elif self._first_look(digest):
                commit = self._parse(of_unknown_size(digest, INDEX), Commit.parse)
                self.parents[digest] = commit.parents
                if digest in roots:
                    known.update(skill.digest for skill in commit.skills.values())
                    continue
                wanted.update((skill.digest, skill) for skill in commit.skills.values())
                waiting.append((digest, True))
                waiting.extend((parent, False) for parent in commit.parents)

    def _first_look(self, digest: str) -> bool:
        fresh = digest not in self._looked_at
        self._looked_at.add(digest)
        return fresh

    def will_have(self, digest: str) -> bool:
        """Tell whether a blob is in the store or planned for."""
        return digest in self._looked_at or self._repository.blobs.has(digest)

    def _add_skill(self, skill: Descriptor) -> None:
        manifest = self._parse(skill, SkillManifest.parse)
        self._manifests.append(skill.digest)
        for blob in (manifest.config, *manifest.layers):
            self._need(blob)

    def _add_list(self, subject: str, digest: str) -> None:
        own = self._repository.refs.read(f"referrers/{referrers_tag(subject)}")
        if own is not None and own.digest == digest:
            return
        listed = {entry.digest for entry in list_referrers(self._repository, subject)}
        # What other programs attach may be of other kinds, of which nothing is known.
        entries = [
            entry
            for entry in read_list(self._remote, digest)
            if entry.digest not in listed and entry.media_type == MANIFEST
        ]
        for entry in entries:
            if self._first_look(entry.digest):
                for file in self._parse(entry, lambda text: attached_files(text, subject)):
                    self._need(file)
                self._manifests.append(entry.digest)
        if entries:
            self._lists[subject] = entries

    def _need(self, blob: Descriptor) -> None:
        try:
            there = self._repository.blobs.size(blob.digest) == blob.size
        except NotFoundError:
            there = False
        if not there:
            self._blobs[blob.digest] = blob
        elif not self._dry_run:
            self._repository.blobs.refresh(blob.digest)

    def _parse(self, document: Descriptor, parse: Callable[[bytes], T]) -> T:
        if document.digest not in self._documents:
            with contextlib.suppress(NotFoundError):
                return self._repository.read_document(document.digest, parse)
        return understood(self._remote, document.digest, self._fetched(document), parse)

    def _fetched(self, document: Descriptor) -> bytes:
        """Return a document of the remote and keep it beside the blobs until all that it refers to is there."""
        for path in self._incoming.leftovers(document.digest):
            data = b""
            with contextlib.suppress(FileNotFoundError):
                data = path.read_bytes()
            if digest_of(data) == document.digest:
                break
        else:
            data = read_document(self._remote, document)
        part = self._incoming.start(document.digest, len(data), resume=False)
        try:
            part.write(data)
            part.close(sync=True)
        finally:
            part.close()
        self._documents[document.digest] = (part.path, len(data))
        return data
