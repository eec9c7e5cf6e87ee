"""Buckets of S3, Google Cloud Storage and Azure, and whatever speaks their protocols, laid out like a folder.

A ref moves by a conditional put that creates its next numbered entry. A put whose answer was lost is sent again and
then fails against itself; so every entry has an id of its writer, and who failed reads it back.
"""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skillpack_store.descriptors import blob_path
from skillpack_store.documents import rfc3339
from skillpack_store.errors import BusyError, CorruptStoreError, NotFoundError, RemoteError, StoreError
from skillpack_store.refs import SHARED_KINDS, build_entry, check_ref, parse_entry
from skillpack_store.remotes.objects import CLIENT, RETRY, need_obstore, object_size, read_object, translated
from skillpack_store.repository import LAYOUT
from skillpack_store.view import INDEX_LIMIT, merge_index, ref_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack_store.descriptors import Descriptor

__all__ = ["BucketRemote", "open_remote"]

PART = 16 << 20  # bytes; larger blobs go in parts
_JOBS = 16


class BucketRemote:
    """A library in a bucket.

    Args:
        store: An ``obstore`` store, its prefix is the library's folder.
        url: Where it is.
    """

    def __init__(self, store: Any, url: str) -> None:
        self.url = url
        self._store = store

    def refs(self) -> Mapping[str, str]:
        """See ``Remote``."""
        newest = self._numbers("refs")
        with ThreadPoolExecutor(_JOBS) as pool:
            digests = pool.map(lambda item: self._named(*item), newest.items())
            found = dict(zip(newest, digests, strict=True))
        return {ref: digest for ref, digest in found.items() if digest is not None}

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """See ``Remote``."""
        blobs = list(blobs)
        with ThreadPoolExecutor(_JOBS) as pool:
            sizes = pool.map(lambda blob: self._size(blob.digest), blobs)
            return {blob.digest: size for blob, size in zip(blobs, sizes, strict=True) if size is not None}

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """See ``Remote``."""
        return read_object(self._store, self.url, blob_path(blob.digest), start)

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """See ``WritableRemote``."""
        import obstore

        with translated(self.url):
            if blob.size <= PART:
                obstore.put(self._store, blob_path(blob.digest), b"".join(chunks()), use_multipart=False)
            else:
                # In parts: what is interrupted never becomes an object.
                obstore.put(self._store, blob_path(blob.digest), chunks(), use_multipart=True, chunk_size=PART)

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """See ``WritableRemote``."""
        number = self._numbers(f"refs/{ref}").get(ref, 0)
        found = self._named(ref, number) if number else None
        if found != expected:
            raise BusyError(f"{ref} of {self.url} was moved by somebody else: it names {found or 'nothing'}.")
        mine = build_entry(digest, rfc3339(None), write=secrets.token_hex(16))
        if not self._create(f"refs/{ref}/{number + 1}", mine) and self._entry(ref, number + 1) != mine:
            raise BusyError(f"{ref} of {self.url} was moved by somebody else at the same time.")

    def finish(self) -> None:
        """Make ``index.json`` show the refs, for web servers and other tools."""
        self._create("oci-layout", LAYOUT)
        try:
            old = b"".join(read_object(self._store, self.url, "index.json"))
        except NotFoundError:
            old = b""
        refs = self.refs()
        known = self._known_sizes(old[: INDEX_LIMIT + 1])
        while True:
            new = merge_index(old, ref_entries(refs, lambda digest: known.get(digest) or self._size(digest)))
            if new != old:
                with translated(self.url):
                    import obstore

                    obstore.put(self._store, "index.json", new)
            # Whoever writes last looks again after writing, so the last version is never older than the refs.
            seen, refs, old = refs, self.refs(), new
            if refs == seen:
                return

    def _known_sizes(self, index: bytes) -> dict[str, int]:
        from skillpack_store.view import read_index

        try:
            return {blob.digest: blob.size for blob in read_index(index).values()}
        except (ValueError, StoreError):
            return {}

    def _create(self, path: str, content: bytes) -> bool:
        """Make an object; False if there is one of this name, possibly from an earlier try of this very call."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with translated(self.url):
            try:
                obstore.put(self._store, path, content, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def _size(self, digest: str) -> int | None:
        return object_size(self._store, self.url, blob_path(digest))

    def _numbers(self, prefix: str) -> dict[str, int]:
        """Return ref -> number of its newest entry, of the refs below a prefix."""
        import obstore

        newest: dict[str, int] = {}
        with translated(self.url):
            for batch in obstore.list(self._store, prefix):
                for found in batch:
                    ref, number = _parse_path(found["path"])
                    if ref:
                        newest[ref] = max(number, newest.get(ref, 0))
        return dict(sorted(newest.items()))

    def _entry(self, ref: str, number: int) -> bytes:
        try:
            return b"".join(read_object(self._store, self.url, f"refs/{ref}/{number}"))
        except NotFoundError as error:
            raise RemoteError(f"The ref entry refs/{ref}/{number} of {self.url} went away.") from error

    def _named(self, ref: str, number: int) -> str | None:
        """Return what an entry of a ref names."""
        try:
            return parse_entry(self._entry(ref, number))[0]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptStoreError(
                f"The ref entry refs/{ref}/{number} of {self.url} is damaged: {error}.",
                hint="Restore it, or remove it to go back to the one before.",
            ) from error


def open_remote(url: str, **options: Any) -> BucketRemote:
    """Return the library in a bucket: ``s3://bucket/path``, ``gs://bucket/path`` or ``az://container/path``.

    Credentials, region and endpoint are taken from the environment, by the names that the providers' own tools use:
    ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ENDPOINT``,
    ``GOOGLE_APPLICATION_CREDENTIALS``, ``AZURE_STORAGE_ACCOUNT_NAME``, ``AZURE_STORAGE_ACCOUNT_KEY`` and so on.
    """
    need_obstore()
    from obstore.store import AzureStore, GCSStore, S3Store

    parts = urlsplit(url)
    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[parts.scheme]
    # As configuration: obstore's client_options would turn off what the environment says of the client, such as
    # AWS_ALLOW_HTTP and proxies.
    client = {key: f"{value.total_seconds():.0f} seconds" for key, value in CLIENT.items()}
    if options.get("insecure"):
        client["allow_http"] = "true"
    with translated(url):
        store = kind(parts.netloc, prefix=parts.path.strip("/") or None, config=client, retry_config=RETRY)
    return BucketRemote(store, url)


def _parse_path(path: str) -> tuple[str, int]:
    """Return ref and number of an entry; an empty ref for what is none."""
    _, _, rest = path.partition("refs/")
    kind, _, rest = rest.partition("/")
    name, _, number = rest.partition("/")
    try:
        check_ref(name)
    except StoreError:
        return "", 0
    return (f"{kind}/{name}", int(number)) if kind in SHARED_KINDS and number.isdecimal() else ("", 0)
