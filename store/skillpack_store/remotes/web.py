"""A library behind any web server: a folder or bucket served as files, read-only. ``index.json`` shows the refs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skillpack_store.descriptors import blob_path
from skillpack_store.errors import NotFoundError, RefusedError, RemoteError, StoreError
from skillpack_store.remotes.hosts import is_loopback
from skillpack_store.remotes.objects import CLIENT, RETRY, need_obstore, object_size, read_object, translated
from skillpack_store.view import INDEX_LIMIT, read_index

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from skillpack_store.descriptors import Descriptor

__all__ = ["WebRemote", "open_remote"]


class WebRemote:
    """A library on the web.

    Args:
        store: An ``obstore.store.HTTPStore`` for the library's folder.
        url: Where it is.
    """

    def __init__(self, store: Any, url: str) -> None:
        self.url = url
        self._store = store

    def refs(self) -> Mapping[str, str]:
        """See ``Remote``."""
        data = b""
        try:
            for chunk in read_object(self._store, self.url, "index.json"):
                data += chunk
                if len(data) > INDEX_LIMIT:
                    raise RefusedError(f"{self.url}/index.json is longer than the {INDEX_LIMIT} bytes that are read.")
        except NotFoundError:
            raise RefusedError(
                f"There is no library at {self.url}: it has no index.json.",
                hint="The address must be that of a store's folder, served as files.",
            ) from None
        try:
            return {ref: blob.digest for ref, blob in read_index(data).items()}
        except (ValueError, StoreError) as error:
            raise RemoteError(f"{self.url}/index.json cannot be used: {error}") from error

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """See ``Remote``."""
        sizes = {blob.digest: object_size(self._store, self.url, blob_path(blob.digest)) for blob in blobs}
        return {digest: size for digest, size in sizes.items() if size is not None}

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """See ``Remote``."""
        return read_object(self._store, self.url, blob_path(blob.digest), start)


def open_remote(url: str, *, insecure: bool = False, **options: Any) -> WebRemote:
    """Return the library at a web address.

    Args:
        url: The address of the store's folder.
        insecure: Allow plain HTTP to other computers. Every byte is hashed, but who is in between can see them, and
            can answer with an older state of the library.
        options: Not used.

    Raises:
        RefusedError: Plain HTTP is not allowed.
    """
    del options
    need_obstore()
    from obstore.store import HTTPStore

    parts = urlsplit(url)
    plain = parts.scheme == "http"
    if plain and not insecure and not is_loopback(parts.hostname or ""):
        raise RefusedError(
            f"{url} is plain HTTP, which anybody in between can answer.", hint="Use https, or allow it with --insecure."
        )
    client: Any = {**CLIENT, "allow_http": plain}
    with translated(url):
        store = HTTPStore(url, client_options=client, retry_config=RETRY)
    return WebRemote(store, url.rstrip("/"))
