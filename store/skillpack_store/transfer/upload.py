"""Bringing commits, skills and attachments from the store to a remote: children first, nothing that is there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, digest_of
from skillpack_store.documents import INDEX, MANIFEST, attached_files, build_index, is_index
from skillpack_store.errors import NotFoundError
from skillpack_store.referrers import list_referrers, referrers_tag, tagged_subject
from skillpack_store.transfer.arriving import read_list
from skillpack_store.transfer.trying import Meter, in_parallel, trying

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack_store.remotes.protocol import WritableRemote
    from skillpack_store.repository import Repository

__all__ = ["Upload"]

_BATCH = 1000  # blobs asked for at a time


class Upload:
    """One push: first it is planned, then ``run``.

    Args:
        repository: Where things come from.
        remote: Where they go.
        refs: The refs of the remote.
        jobs: Connections at a time.
        progress: Called with bytes done, bytes in total, and what is being done.
    """

    def __init__(
        self,
        repository: Repository,
        remote: WritableRemote,
        refs: Mapping[str, str],
        *,
        jobs: int,
        progress: Callable[[int, int, str], None],
    ) -> None:
        self._repository, self._remote, self._refs = repository, remote, refs
        self._jobs, self._progress = jobs, progress
        self._stages: dict[str, dict[str, Descriptor]] = {"content": {}, "manifests": {}, "commits": {}}
        self._lists: dict[str, list[Descriptor]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all that the remote lacks."""
        return sum(blob.size for stage in self._stages.values() for blob in stage.values())

    @property
    def blobs(self) -> int:
        """How many blobs the remote lacks."""
        return sum(len(stage) for stage in self._stages.values())

    @property
    def attachments(self) -> int:
        """How many attachments the remote has not listed."""
        return sum(len(entries) for entries in self._lists.values())

    @property
    def lists(self) -> Mapping[str, list[Descriptor]]:
        """Digest of a subject -> attachments that the remote has not listed."""
        return self._lists

    def add_history(self, tips: Iterable[str]) -> None:
        """Plan for commits with all that they refer to, parents included.

        Raises:
            NotFoundError: A part of them is not in the store.
        """
        # What the refs of the remote name is there, with all that it refers to.
        there = set(self._refs.values())
        skills: dict[str, Descriptor] = {}
        known: set[str] = set()
        waiting = [(tip, False) for tip in tips]
        seen: set[str] = set()
        while waiting:
            digest, parents_done = waiting.pop()
            if parents_done:
                self._add("commits", Descriptor(digest, self._repository.blobs.size(digest), INDEX))
            elif digest not in seen and not (digest in there and not self._repository.blobs.has(digest)):
                seen.add(digest)
                commit = self._repository.read_commit(digest)
                if digest in there:
                    known.update(skill.digest for skill in commit.skills.values())
                    continue
                skills.update((skill.digest, skill) for skill in commit.skills.values())
                waiting.append((digest, True))
                waiting.extend((parent, False) for parent in commit.parents)
        for digest, skill in skills.items():
            if digest not in known:
                self._add_skill(skill)

    def add_attachments(self) -> None:
        """Plan for what is attached to anything that the remote has or that is planned for."""
        own = {
            tagged_subject(name): value.digest
            for name, value in self._repository.refs.list("referrers").items()
            if self._refs.get(f"referrers/{name}") != value.digest
        }
        found = True
        while found:
            # An attachment may have attachments of its own.
            ready = self._there(own)
            found = bool(ready)
            for subject in ready:
                del own[subject]
                self._add_list(subject)

    def leave_out_what_is_there(self) -> None:
        """Ask the remote which of the planned blobs it has."""
        for stage in self._stages.values():
            present = self._sizes(stage.values())
            for digest, size in present.items():
                if digest in stage and stage[digest].size == size:
                    del stage[digest]

    def run(self) -> None:
        """Write everything that was planned for: content, then what refers to it, then what refers to that."""
        meter = Meter(self._progress, "sending", self.nbytes)
        in_parallel(lambda blob: self._send(blob, meter), self._stages["content"].values(), self._jobs, meter)
        in_parallel(lambda blob: self._send(blob, meter), self._manifests(), self._jobs, meter)
        for blob in [*self._attached_manifests(), *self._stages["commits"].values()]:
            self._send(blob, meter)

    def merged_list(self, subject: str, current: str | None) -> tuple[Descriptor, bytes]:
        """Return the list of what is attached to a subject, as it is at the remote, with ours added.

        Args:
            subject: Its digest.
            current: Digest of the remote's list; None if it has none.
        """
        listed: dict[str, Descriptor] = {}
        if current is not None:
            listed = {entry.digest: entry for entry in read_list(self._remote, current)}
        for entry in self._lists[subject]:
            listed.setdefault(entry.digest, entry)
        data = build_index([entry.to_json() for entry in listed.values()])
        return Descriptor(digest_of(data), len(data), INDEX), data

    def _add(self, stage: str, blob: Descriptor) -> None:
        self._stages[stage].setdefault(blob.digest, blob)

    def _add_skill(self, skill: Descriptor) -> None:
        manifest = self._repository.skill_manifest(skill.digest)
        for blob in (manifest.config, *manifest.layers):
            self._add("content", blob)
        self._add("manifests", skill)

    def _add_list(self, subject: str) -> None:
        listed: set[str] = set()
        current = self._refs.get(f"referrers/{referrers_tag(subject)}")
        if current is not None:
            listed = {entry.digest for entry in read_list(self._remote, current)}
        missing = [entry for entry in list_referrers(self._repository, subject) if entry.digest not in listed]
        for entry in missing:
            for file in self._repository.read_document(entry.digest, lambda text: attached_files(text, subject)):
                self._add("content", file)
            self._add("manifests", entry)
        if missing:
            self._lists[subject] = missing

    def _there(self, subjects: Iterable[str]) -> list[str]:
        planned = {digest for stage in self._stages.values() for digest in stage}
        ready = [digest for digest in subjects if digest in planned]
        others = [self._subject(digest) for digest in subjects if digest not in planned]
        present = self._sizes(blob for blob in others if blob is not None)
        return ready + list(present)

    def _subject(self, digest: str) -> Descriptor | None:
        try:
            data = self._repository.blobs.read(digest, limit=DOCUMENT_LIMIT)
        except NotFoundError:
            return None
        return Descriptor(digest, len(data), INDEX if is_index(data) else MANIFEST)

    def _sizes(self, blobs: Iterable[Descriptor]) -> dict[str, int]:
        blobs = list(blobs)
        found: dict[str, int] = {}
        for start in range(0, len(blobs), _BATCH):
            found.update(trying(partial(self._remote.sizes, blobs[start : start + _BATCH])))
        return found

    def _manifests(self) -> list[Descriptor]:
        attached = self._attached()
        return [blob for blob in self._stages["manifests"].values() if blob.digest not in attached]

    def _attached_manifests(self) -> list[Descriptor]:
        """Return attachments, what they are attached to before them."""
        attached = self._attached()
        return [blob for blob in self._stages["manifests"].values() if blob.digest in attached]

    def _attached(self) -> set[str]:
        return {entry.digest for entries in self._lists.values() for entry in entries}

    def _send(self, blob: Descriptor, meter: Meter) -> None:
        def attempt() -> None:
            sent = [0]
            try:
                self._remote.write(blob, lambda: self._chunks(blob, meter, sent))
            except BaseException:
                sent[0], undone = 0, sent[0]
                meter.advance(-undone)
                raise

        trying(attempt)

    def _chunks(self, blob: Descriptor, meter: Meter, sent: list[int]) -> Iterator[bytes]:
        meter.advance(-sent[0])
        sent[0] = 0
        for chunk in _verified(self._repository.blobs.stream(blob.digest)):
            yield chunk
            sent[0] += len(chunk)
            meter.advance(len(chunk))


def _verified(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Hold the last chunk back until the whole was hashed: whoever knows the size may not ask for more than that."""
    held = b""
    for chunk in chunks:
        if held:
            yield held
        held = chunk
    if held:
        yield held
