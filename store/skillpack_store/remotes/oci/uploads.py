"""Uploads of blobs: in one request, or in parts that can go on after a broken connection.

Specification: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#push
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, NamedTuple

from skillpack_store.errors import RemoteError
from skillpack_store.remotes.oci.session import PULL, PUSH, header_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from skillpack_store.descriptors import Descriptor
    from skillpack_store.remotes.client import Answer
    from skillpack_store.remotes.oci.session import Session

__all__ = ["PART", "upload"]

PART = 64 << 20  # bytes; larger blobs are sent in parts of this size
_TRIES = 3
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_PARTS_REFUSED = {400, 404, 405, 413, 416, 501}


class _Content:
    """Gives any part of a blob from chunks that come in order; going back starts anew."""

    def __init__(self, chunks: Callable[[], Iterator[bytes]]) -> None:
        self._chunks = chunks
        self._coming: Iterator[bytes] = iter(())
        self._rest = memoryview(b"")
        self._position = -1

    def part(self, start: int, length: int) -> Iterator[bytes]:
        """Yield ``length`` bytes from ``start`` on; fewer if the content ends before."""
        if self._position != start:
            self._coming, self._rest, self._position = iter(self._chunks()), memoryview(b""), 0
            for _ in self._take(start):
                pass
        yield from self._take(length)

    def _take(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._rest:
                self._rest = memoryview(next(self._coming, b""))
                if not self._rest:
                    return
            piece, self._rest = self._rest[:length], self._rest[length:]
            length -= len(piece)
            self._position += len(piece)
            yield bytes(piece)


class _Place(NamedTuple):
    """Where an upload goes on: its location, the first byte that is missing, and the least size of a part."""

    location: str
    offset: int
    least: int


class _Broken(Exception):  # noqa: N818  a signal of this module
    """A part did not arrive; the upload may go on."""

    def __init__(self, error: RemoteError) -> None:
        super().__init__(error.message)
        self.error = error


class _PartsRefusedError(Exception):
    """The registry takes no blobs in parts."""


def upload(
    session: Session,
    blob: Descriptor,
    chunks: Callable[[], Iterator[bytes]],
    *,
    part: int = PART,
    mount_from: Sequence[str] = (),
) -> None:
    """Store a blob.

    Args:
        session: The repository.
        blob: Digest and size.
        chunks: Gives the content anew at each call.
        part: Blobs of more bytes are sent in parts of this size.
        mount_from: Other repositories of the registry that may have it.

    Raises:
        RemoteError: It could not be stored; the registry keeps nothing of it.
    """
    for other in mount_from:
        if _mount(session, blob, other):
            return
    content = _Content(chunks)
    if blob.size > part and session.takes_parts:
        try:
            _in_parts(session, blob, content, part)
        except _PartsRefusedError:
            # ghcr.io, for example, takes no part of more than 4 MiB, and a whole blob of any size.
            session.takes_parts = False
        else:
            return
    _whole(session, blob, content)


def _mount(session: Session, blob: Descriptor, other: str) -> bool:
    answer = session.fetch(
        "POST",
        f"blobs/uploads/?mount={blob.digest}&from={other}",
        action=PUSH,
        more_scope=f"repository:{other}:{PULL}",
        headers={"Content-Length": "0"},
    )
    if answer.status == 202:
        # Not there: an ordinary upload was begun instead, which nobody needs.
        _cancel(session, session.location(answer))
    return answer.status == 201


def _start(session: Session, blob: Descriptor) -> _Place:
    answer = session.fetch("POST", "blobs/uploads/", action=PUSH, headers={"Content-Length": "0"}, repeat=True)
    location = session.location(answer) if answer.status == 202 else ""
    if not location:
        raise session.refusal(answer, f"the upload of blob {blob.digest} could not be begun")
    least = header_of(answer, "OCI-Chunk-Min-Length")
    return _Place(location, 0, int(least) if least.isdigit() and len(least) < 12 else 0)


def _whole(session: Session, blob: Descriptor, content: _Content) -> None:
    """Send a blob in one request, anew if the connection breaks."""
    for attempt in range(_TRIES):
        place = _start(session, blob)
        try:
            _finish(session, blob, place, lambda: content.part(0, blob.size))
        except _Broken as broken:
            _cancel(session, place.location)
            if attempt + 1 == _TRIES:
                raise broken.error from None
        except BaseException:
            _cancel(session, place.location)
            raise
        else:
            return


def _in_parts(session: Session, blob: Descriptor, content: _Content, part: int) -> None:
    place, tries = _start(session, blob), _TRIES
    try:
        while place.offset < blob.size:
            try:
                place = _send_part(session, blob, content, place, part)
                tries = _TRIES
            except _Broken as broken:  # noqa: PERF203  once for a part of many MiB
                tries -= 1
                if not tries:
                    if not place.offset:
                        # Nothing at all: it may have hung up because of the size, without an answer.
                        raise _PartsRefusedError from None
                    raise broken.error from None
                place = _resumed(session, blob, place)
        try:
            _finish(session, blob, place, lambda: iter([b""]))
        except _Broken as broken:
            # The answer was lost, perhaps not the blob.
            if session.fetch("HEAD", f"blobs/{blob.digest}").status != 200:
                raise broken.error from None
    except BaseException:
        _cancel(session, place.location)
        raise


def _send_part(session: Session, blob: Descriptor, content: _Content, place: _Place, part: int) -> _Place:
    size = min(max(part, place.least), blob.size - place.offset)
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(size),
        "Content-Range": f"{place.offset}-{place.offset + size - 1}",
    }
    answer = _attempt(session, "PATCH", place.location, headers, lambda: content.part(place.offset, size))
    if answer.status in _PARTS_REFUSED and not place.offset:
        _cancel(session, place.location)
        raise _PartsRefusedError
    if answer.status == 416:
        raise _Broken(RemoteError(f"{session.client.home} has lost a part of blob {blob.digest}."))
    if answer.status not in {201, 202, 204}:
        raise session.refusal(answer, f"a part of blob {blob.digest} was not taken")
    reached = _reached(answer, place.offset + size)
    if reached <= place.offset:
        # A range that stands still, as ECR answers although it has the part. The digest at the end decides.
        reached = place.offset + size
    if reached > place.offset + size:
        raise RemoteError(f"{session.client.home} does not say how much of blob {blob.digest} it has.")
    return place._replace(location=session.location(answer) or place.location, offset=reached)


def _resumed(session: Session, blob: Descriptor, place: _Place) -> _Place:
    """Ask how much has arrived; begin anew with a registry that does not know."""
    with contextlib.suppress(RemoteError):
        answer = session.fetch("GET", place.location, action=PUSH)
        if answer.status in {200, 202, 204} and _RANGE.fullmatch(header_of(answer, "Range")):
            # "0-0" is also what registries say of an upload of which nothing has arrived.
            reached = _reached(answer, 0)
            reached = 0 if reached == 1 else reached
            if reached <= blob.size:
                return place._replace(location=session.location(answer) or place.location, offset=reached)
    _cancel(session, place.location)
    return _start(session, blob)


def _finish(session: Session, blob: Descriptor, place: _Place, body: Callable[[], Iterator[bytes]]) -> None:
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(blob.size - place.offset)}
    separator = "&" if "?" in place.location else "?"
    location = f"{place.location}{separator}digest={blob.digest}"
    answer = _attempt(session, "PUT", location, headers, body)
    if answer.status not in {201, 204}:
        raise session.refusal(answer, f"blob {blob.digest} was not taken")
    found = header_of(answer, "Docker-Content-Digest") or blob.digest
    if found != blob.digest:
        raise RemoteError(f"{session.client.home} stored blob {blob.digest} as {found[:80]!r}.")


def _attempt(
    session: Session,
    method: str,
    location: str,
    headers: dict[str, str],
    body: Callable[[], Iterator[bytes]],
) -> Answer:
    """Send content; ``_Broken`` if no answer came."""
    problems: list[BaseException] = []

    def watched() -> Iterator[bytes]:
        try:
            yield from body()
        except Exception as error:
            # The content's own error, such as a damaged blob, is not one of the connection.
            problems.append(error)
            raise

    try:
        return session.fetch(method, location, action=PUSH, headers=headers, body=watched)
    except RemoteError as error:
        if problems:
            raise problems[0] from None
        raise _Broken(error) from error


def _reached(answer: Answer, otherwise: int) -> int:
    found = _RANGE.fullmatch(header_of(answer, "Range"))
    return int(found[1]) + 1 if found else otherwise


def _cancel(session: Session, location: str) -> None:
    """Tell the registry to forget an upload; what it does not forget now it collects some day."""
    with contextlib.suppress(RemoteError):
        session.fetch("DELETE", location, action=PUSH)
