"""Blobs on their way to the Hub: uploaded or in memory, and not yet part of a commit there."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitOperationAdd, constants
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from skillpack_store.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from skillpack_store.descriptors import Descriptor

__all__ = ["Pending", "quiet", "spooled"]

IN_MEMORY = 1 << 20  # bytes; larger blobs wait in a temporary file until they are uploaded


class Pending:
    """What was written and not committed; may be used by several threads."""

    def __init__(self) -> None:
        self._operations: dict[str, CommitOperationAdd] = {}
        self._sizes: dict[str, int] = {}
        self._documents: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def add(self, blob: Descriptor, operation: CommitOperationAdd, document: bytes | None = None) -> None:
        """Keep the operation that makes a blob part of the repository, and the content of one that is read again."""
        with self._lock:
            if document is not None:
                self._documents[blob.digest] = document
            self._operations[blob.digest] = operation
            self._sizes[blob.digest] = blob.size

    def size(self, digest: str) -> int | None:
        """Return the size of a blob in bytes; None if it is not here."""
        return self._sizes.get(digest)

    def content(self, digest: str) -> bytes | None:
        """Return the content of a blob; None if it is not in memory."""
        if digest in self._documents:
            return self._documents[digest]
        operation = self._operations.get(digest)
        content = None if operation is None else operation.path_or_fileobj
        return content if isinstance(content, bytes) and len(content) == self._sizes[digest] else None

    def operation(self, digest: str, path: str) -> CommitOperationAdd | None:
        """Return an operation that gives a second path the content of a blob; None if it is not here."""
        operation = self._operations.get(digest)
        if operation is None:
            return None
        second = copy.copy(operation)
        second.path_in_repo = path
        return second

    def operations(self) -> dict[str, CommitOperationAdd]:
        """Return digest -> operation of all that is here now."""
        with self._lock:
            # Copies: an operation may be used for one commit only, and this one may fail.
            return {digest: copy.copy(operation) for digest, operation in self._operations.items()}

    def in_memory(self) -> int:
        """Return how many bytes of content are held."""
        with self._lock:
            contents = (operation.path_or_fileobj for operation in self._operations.values())
            return sum(len(content) for content in contents if isinstance(content, bytes))

    def committed(self, digests: Iterable[str]) -> None:
        """Forget what is part of the repository now."""
        with self._lock:
            for digest in digests:
                self._operations.pop(digest, None)
                self._sizes.pop(digest, None)
                self._documents.pop(digest, None)


@contextlib.contextmanager
def spooled(blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> Iterator[bytes | Path]:
    """Give the content of a blob as the Hub's library takes it: bytes if it is small, else a temporary file.

    Raises:
        RemoteError: It has another digest.
    """
    digest = hashlib.sha256()
    with contextlib.ExitStack() as stack:
        kept = bytearray()
        file = None
        for chunk in chunks():
            digest.update(chunk)
            if file is None and len(kept) + len(chunk) > IN_MEMORY:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="skillpack-"))
                file = stack.enter_context((Path(folder) / "blob").open("wb"))
                file.write(kept)
                kept.clear()
            if file is None:
                kept += chunk
            else:
                file.write(chunk)
        if f"sha256:{digest.hexdigest()}" != blob.digest:
            raise RemoteError(f"What was to be sent as {blob.digest} has another digest.")
        if file is not None:
            file.flush()
        yield bytes(kept) if file is None else Path(file.name)


_quiet_lock = threading.Lock()
_quiet_depth = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the Hub's library from drawing bars of its own, unless the environment asks for them."""
    global _quiet_depth  # noqa: PLW0603  the switch is global too
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or (are_progress_bars_disabled() and not _quiet_depth):
        yield
        return
    with _quiet_lock:
        _quiet_depth += 1
        disable_progress_bars()
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if not _quiet_depth:
                enable_progress_bars()
