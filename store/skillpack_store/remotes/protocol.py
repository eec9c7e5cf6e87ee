"""What every remote can do: say what its refs name, say what it has, give bytes, take bytes, move a ref.

A remote knows nothing of skills: what belongs together, what is written first and what is checked on arrival is the
business of ``skillpack_store.transfer``, once for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack_store.descriptors import Descriptor

__all__ = ["FinishingRemote", "Remote", "WritableRemote"]


@runtime_checkable
class Remote(Protocol):
    """A place that libraries are pulled from.

    Methods may be called by several threads at once. What they return is not trusted by the caller: every byte is
    hashed on arrival.

    Attributes:
        url: Where it is, without credentials.
    """

    url: str

    def refs(self) -> Mapping[str, str]:
        """Return ``heads/<branch>``, ``tags/<tag>`` and ``referrers/sha256-<hex>`` -> digest, as they are now.

        Empty if nothing was ever pushed.

        Raises:
            RemoteError: The place cannot be reached, does not answer as it should, or refuses.
        """

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """Return digest -> size in bytes of those of these blobs that are there; the others are left out.

        The media type of a descriptor tells manifests from blobs, for places that keep them apart.
        """

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield the content of a blob from byte ``start`` on, unverified.

        The size of a commit or of a list of attachments is not known before it is read: its descriptor has the media
        type of an index and ``DOCUMENT_LIMIT`` as size, which is the most it may have.

        Raises:
            NotFoundError: It is not there.
            RefusedError: It is not given, and will not be given when asked again.
            RemoteError: The connection broke; what was yielded before counts, the caller may go on from there.
        """


@runtime_checkable
class WritableRemote(Remote, Protocol):
    """A place that libraries are pushed to."""

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Store a blob; when this returns it is there for good, and all that it refers to was there before.

        Args:
            blob: Its descriptor.
            chunks: Gives the content anew at each call, for another try.

        Raises:
            RemoteError: It could not be stored. Nothing, or nothing that counts, is kept.
        """

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """Make a ref name ``digest`` (None: nothing) if it now names ``expected`` (None: nothing).

        Raises:
            BusyError: It names something else. Nothing was changed.
            RemoteError: It could not be changed.
        """


@runtime_checkable
class FinishingRemote(WritableRemote, Protocol):
    """A place that has work to do once at the end of a push, such as a view of its refs for other tools."""

    def finish(self) -> None:
        """Complete a push: called after the last ``update_ref``, also if there was none.

        Raises:
            BusyError: Somebody else changed the place meanwhile (where only the whole can be replaced). Nothing was
                changed.
            RemoteError: It could not be done.
        """
