"""A remote in this process's memory, for tests and for programs that hand libraries on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from skillpack_store.blobs import CHUNK
from skillpack_store.descriptors import digest_of
from skillpack_store.errors import BusyError, NotFoundError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack_store.descriptors import Descriptor

__all__ = ["MemoryRemote", "open_remote"]


class MemoryRemote:
    """Blobs and refs in two dictionaries.

    Attributes:
        url: ``memory://<name>``.
        blobs: Digest -> content.
    """

    def __init__(self, name: str = "") -> None:
        self.url = f"memory://{name}"
        self.blobs: dict[str, bytes] = {}
        self._refs: dict[str, str] = {}
        self._lock = threading.Lock()

    def refs(self) -> Mapping[str, str]:
        """See ``Remote``."""
        with self._lock:
            return dict(self._refs)

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """See ``Remote``."""
        return {blob.digest: len(self.blobs[blob.digest]) for blob in blobs if blob.digest in self.blobs}

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """See ``Remote``."""
        if blob.digest not in self.blobs:
            raise NotFoundError(f"Blob {blob.digest} is not in {self.url}.")
        content = self.blobs[blob.digest]
        for at in range(start, len(content), CHUNK):
            yield content[at : at + CHUNK]

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """See ``WritableRemote``."""
        content = b"".join(chunks())
        if digest_of(content) != blob.digest:
            raise RemoteError(f"Blob {blob.digest} arrived damaged.")
        self.blobs[blob.digest] = content

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """See ``WritableRemote``."""
        with self._lock:
            if self._refs.get(ref) != expected:
                raise BusyError(f"{ref} was moved by somebody else.")
            if digest is None:
                self._refs.pop(ref, None)
            else:
                self._refs[ref] = digest


_OPENED: dict[str, MemoryRemote] = {}


def open_remote(url: str, **options: Any) -> MemoryRemote:
    """Return the remote of this name; within one process it is the same one each time."""
    del options
    name = url.removeprefix("memory://")
    return _OPENED.setdefault(name, MemoryRemote(name))
