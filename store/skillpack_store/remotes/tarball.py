"""A library in one file, an OCI archive: pulled from like any remote; a push writes a new file and replaces the old.

What is written is kept in mind until the push is finished, and then streamed into the new file. Only the whole file
can be replaced: a push that sees that somebody else replaced it is refused, but two that end in the same moment are
not told apart, and the last one stays.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack_store import disk
from skillpack_store.blobs import CHUNK
from skillpack_store.descriptors import blob_path, parse_digest
from skillpack_store.errors import BusyError, CorruptStoreError, NotFoundError, RefusedError, StoreError
from skillpack_store.remotes.folder import folder_of, translated_os_errors
from skillpack_store.repository import LAYOUT
from skillpack_store.tar import member_bytes, read_members, tar_end
from skillpack_store.view import INDEX_LIMIT, merge_index, read_index, ref_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack_store.descriptors import Descriptor
    from skillpack_store.tar import Member

__all__ = ["ArchiveRemote", "open_remote"]

_BLOBS = "blobs/sha256/"


class ArchiveRemote:
    """A library in a tar file; made by the first push.

    Args:
        path: The file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.url = str(path)
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, ...], dict[str, Member]] = ((), {})
        self._staged: dict[str, tuple[int, Callable[[], Iterator[bytes]]]] = {}
        self._moved: dict[str, tuple[str | None, str | None]] = {}

    def refs(self) -> Mapping[str, str]:
        """See ``Remote``; refs that were moved and not finished yet are as they will be."""
        refs = self._refs_of_file()
        for ref, (_, digest) in self._moved.items():
            refs.pop(ref, None)
            if digest is not None:
                refs[ref] = digest
        return refs

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """See ``Remote``."""
        members = self._members()
        return {blob.digest: members[name].size for blob in blobs if (name := blob_path(blob.digest)) in members}

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """See ``Remote``."""
        if blob.digest in self._staged:
            return iter([b"".join(self._staged[blob.digest][1]())[start:]])
        member = self._members().get(blob_path(blob.digest))
        if member is None:
            raise NotFoundError(f"Blob {blob.digest} is not in {self.url}.")
        return self._content(member, start)

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Keep in mind that the next file has this blob."""
        self._staged[blob.digest] = (blob.size, chunks)

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """Keep in mind that the next file has this ref; the file itself changes by ``finish``."""
        if self.refs().get(ref) != expected:
            raise BusyError(f"{ref} of {self.url} was moved by somebody else.")
        before, _ = self._moved.get(ref, (expected, None))
        self._moved[ref] = (before, digest)

    def finish(self) -> None:
        """Write the new file beside the old one and put it in its place."""
        if not self._staged and not self._moved:
            return
        with translated_os_errors(self.url):
            disk.replace(self.path, self._new_file())
        self._staged, self._moved = {}, {}

    def _new_file(self) -> Iterator[bytes]:
        self._require_unmoved()
        members, version = self._members(), self._seen[0]
        sizes = {_digest(name): member.size for name, member in members.items() if name.startswith(_BLOBS)}
        sizes.update((digest, size) for digest, (size, _) in self._staged.items())
        for digest, size in sorted(sizes.items()):
            staged = self._staged.get(digest)
            content = self._content(members[blob_path(digest)], 0) if staged is None else staged[1]()
            yield from member_bytes(blob_path(digest), size, content)
        index = merge_index(self._document("index.json"), ref_entries(self.refs(), sizes.get))
        yield from member_bytes("index.json", len(index), [index])
        yield from member_bytes("oci-layout", len(LAYOUT), [LAYOUT])
        yield tar_end()
        # Everything is written by now except the name: look once more. Of another file neither the blobs that were
        # copied nor the refs that were shown need be those of this one, whichever refs moved.
        self._members()
        if self._seen[0] != version:
            raise self._replaced()

    def _require_unmoved(self) -> None:
        now = self._refs_of_file()
        if any(now.get(ref) != before for ref, (before, _) in self._moved.items()):
            raise self._replaced()

    def _replaced(self) -> BusyError:
        self._staged, self._moved = {}, {}
        return BusyError(f"{self.url} was replaced by somebody else.", hint="Theirs stays. Pull, then push again.")

    def _refs_of_file(self) -> dict[str, str]:
        index = self._document("index.json")
        if not index:
            return {}
        try:
            return {ref: blob.digest for ref, blob in read_index(index).items()}
        except (ValueError, StoreError) as error:
            raise CorruptStoreError(f"The index.json in {self.url} cannot be used: {error}.") from error

    def _document(self, name: str) -> bytes:
        member = self._members().get(name)
        if member is None:
            return b""
        if member.size > INDEX_LIMIT:
            raise CorruptStoreError(f"The {name} in {self.url} is too long.")
        return b"".join(self._content(member, 0))

    def _members(self) -> dict[str, Member]:
        """Return the files in the archive by name; none if there is no archive."""
        with self._lock, translated_os_errors(self.url):
            try:
                status = self.path.stat()
            except FileNotFoundError:
                return {}
            version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if version != self._seen[0]:
                self._seen = (version, self._read_members(status.st_size))
            return self._seen[1]

    def _read_members(self, length: int) -> dict[str, Member]:
        try:
            with self.path.open("rb") as file:
                members = {member.name.removeprefix("./"): member for member in read_members(file, length)}
            for name in members:
                if name not in {"oci-layout", "index.json"}:
                    parse_digest(_digest(name))
        except ValueError as error:
            raise RefusedError(
                f"{self.url} is not an archive of a library: {error}.",
                hint="A library is put into an archive by skillpack push FILE.tar; a compressed one must be unpacked.",
            ) from error
        return members

    def _content(self, member: Member, start: int) -> Iterator[bytes]:
        with translated_os_errors(self.url), self.path.open("rb") as file:
            file.seek(member.start + start)
            left = member.size - start
            while left > 0 and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk


def open_remote(url: str, **options: Any) -> ArchiveRemote:
    """Return the library in an archive, given by its path or a ``file://`` URL."""
    del options
    return ArchiveRemote(folder_of(url))


def _digest(name: str) -> str:
    return f"sha256:{name.removeprefix(_BLOBS)}" if name.startswith(_BLOBS) else name
