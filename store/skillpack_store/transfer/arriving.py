"""Reading from a remote: bounded by the announced size, hashed, tried again, gone on with where it broke."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, digest_of
from skillpack_store.documents import INDEX, parse_index
from skillpack_store.errors import CorruptStoreError, NotFoundError, RemoteError
from skillpack_store.transfer.trying import Tries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from skillpack_store.remotes.protocol import Remote
    from skillpack_store.transfer.incoming import Incoming, Part

__all__ = ["download", "of_unknown_size", "read_document", "read_list", "understood"]

T = TypeVar("T")

_MISMATCHES = 2


def of_unknown_size(digest: str, media_type: str) -> Descriptor:
    """Return a descriptor for a document of which only the digest is known; its size is the most it may have."""
    return Descriptor(digest, DOCUMENT_LIMIT, media_type)


def read_document(remote: Remote, document: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
    """Return a document of a remote, whose bytes have the digest.

    Args:
        remote: Where it is.
        document: Its descriptor.
        limit: The most bytes that it may have.

    Raises:
        CorruptStoreError: The remote has no such bytes.
        RemoteError: The connection broke, again and again.
    """
    if document.size > limit:
        raise _unusable(remote, document, f"it is announced with {document.size} bytes, more than a document may have")
    tries = Tries()
    mismatches = 0
    while True:
        try:
            data = _read_bounded(remote, document)
        except RemoteError as error:
            tries.failed(error)
            continue
        if digest_of(data) == document.digest:
            return data
        # Once more, since what cuts connections off or spoils bytes on their way may be gone.
        mismatches += 1
        if mismatches == _MISMATCHES:
            raise _unusable(remote, document, f"the {len(data)} bytes received have digest {digest_of(data)}")


def understood(remote: Remote, digest: str, data: bytes, parse: Callable[[bytes], T]) -> T:
    """Return what a document of a remote means.

    Raises:
        CorruptStoreError: It means nothing.
    """
    try:
        return parse(data)
    except ValueError as error:
        raise CorruptStoreError(
            f"Blob {digest} of {remote.url} cannot be used: {error}.",
            hint="It was written by another program or a newer version.",
        ) from error


def read_list(remote: Remote, digest: str) -> list[Descriptor]:
    """Return the entries of a list of attachments of a remote.

    Raises:
        CorruptStoreError: The remote has no such list.
        RemoteError: The connection broke, again and again.
    """
    index = of_unknown_size(digest, INDEX)
    try:
        return parse_index(read_document(remote, index))
    except ValueError as error:
        raise _unusable(remote, index, str(error)) from error


def download(remote: Remote, blob: Descriptor, incoming: Incoming, advance: Callable[[int], None]) -> Path:
    """Return a file with a blob of a remote, complete, compared with its digest and synced.

    Args:
        remote: Where it is.
        blob: Its descriptor; its size bounds what is read.
        incoming: Where the file is made, from what an earlier download left if there is something.
        advance: Called with the number of bytes of each step.

    Raises:
        CorruptStoreError: The remote has no such bytes.
        RemoteError: The connection broke, again and again. What arrived is kept for the next time.
    """
    for resume in (True, False):
        part = incoming.start(blob.digest, blob.size, resume=resume)
        try:
            advance(part.size)
            resumed = part.size > 0
            _receive(remote, blob, part, advance)
            if part.digest == blob.digest:
                part.close(sync=True)
                return part.path
        finally:
            part.close()
        incoming.discard(blob.digest)
        advance(-part.size)
        if not resumed:
            break
    raise _unusable(remote, blob, f"the {part.size} bytes received have digest {part.digest}")


def _receive(remote: Remote, blob: Descriptor, part: Part, advance: Callable[[int], None]) -> None:
    tries = Tries()
    while part.size < blob.size:
        before = part.size
        problem = RemoteError(f"{remote.url} ended blob {blob.digest} before its {blob.size} bytes.")
        try:
            for chunk in remote.read(blob, part.size):
                if part.size + len(chunk) > blob.size:
                    raise _unusable(remote, blob, f"more than the announced {blob.size} bytes arrived")
                part.write(chunk)
                advance(len(chunk))
        except NotFoundError:
            raise _unusable(remote, blob, "it is not there although something refers to it") from None
        except RemoteError as error:
            problem = error
        if part.size < blob.size:
            tries.failed(problem, progressed=part.size > before)


def _read_bounded(remote: Remote, document: Descriptor) -> bytes:
    chunks = []
    size = 0
    try:
        for chunk in remote.read(document):
            size += len(chunk)
            if size > document.size:
                raise _unusable(remote, document, f"more than the announced {document.size} bytes arrived")
            chunks.append(chunk)
    except NotFoundError:
        raise _unusable(remote, document, "it is not there although something refers to it") from None
    return b"".join(chunks)


def _unusable(remote: Remote, blob: Descriptor, reason: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"Blob {blob.digest} of {remote.url} cannot be used: {reason}.",
        hint="Nothing of it was kept. Try again; if it stays like this, repair the remote: push to it from a store "
        "that is whole.",
    )
