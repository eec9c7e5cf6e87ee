"""A store in a folder as a remote: a mounted path, a network share, a USB stick."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from skillpack_store.blobs import CHUNK
from skillpack_store.errors import BusyError, NotFoundError, RefusedError, RemoteError
from skillpack_store.refs import SHARED_KINDS
from skillpack_store.repository import Repository
from skillpack_store.roots import subject_of
from skillpack_store.securing import secure_attachments, secure_commit
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack_store.descriptors import Descriptor

__all__ = ["FolderRemote", "folder_of", "open_remote", "translated_os_errors"]

_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR}


class FolderRemote:
    """A store in a folder; made by the first push.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.url = os.fspath(path)

    def refs(self) -> Mapping[str, str]:
        """See ``Remote``."""
        with translated_os_errors(self.url):
            store = self._store()
            if store is None:
                return {}
            return {
                f"{kind}/{name}": str(value.digest)
                for kind in SHARED_KINDS
                for name, value in store.refs.list(kind).items()
            }

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """See ``Remote``."""
        found: dict[str, int] = {}
        with translated_os_errors(self.url):
            store = self._store()
            if store is None:
                return found
            for blob in blobs:
                try:
                    found[blob.digest] = store.blobs.size(blob.digest)
                except NotFoundError:
                    continue
                # What a push relies on must not be collected as garbage before the push is over.
                store.blobs.refresh(blob.digest)
        return found

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """See ``Remote``."""
        with translated_os_errors(self.url):
            store = self._store()
            if store is None:
                raise NotFoundError(f"There is no store in {self.url}.")
            with store.blobs.open(blob.digest) as file:
                file.seek(start)
                while chunk := file.read(CHUNK):
                    yield chunk

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """See ``WritableRemote``."""
        with translated_os_errors(self.url):
            Repository.open_or_create(self.path).blobs.put(chunks(), expect=blob.digest)

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """See ``WritableRemote``."""
        with translated_os_errors(self.url):
            store = Repository.open_or_create(self.path)
            if digest is not None:
                with store.writing():
                    # A garbage collection there may have been at work since it was asked what is there.
                    subject = subject_of(ref)
                    if subject is None:
                        secure_commit(store, digest)
                    else:
                        secure_attachments(store, subject, digest)
                    store.refs.update(ref, digest, expected=expected)
            elif expected is not None:
                store.refs.delete(ref, expected=expected)
            elif store.refs.read(ref) is not None:
                raise BusyError(f"{ref} was made by somebody else.")

    def finish(self) -> None:
        """Make ``index.json`` show the refs."""
        store = self._store()
        if store is not None:
            refresh_index(store)

    def _store(self) -> Repository | None:
        """Return the store; None if the folder is not there or empty, or a store was only begun to be made in it."""
        if (self.path / "oci-layout").exists():
            return Repository.open(self.path)
        if self.path.is_dir() and not any(self.path.iterdir()):
            return None
        return Repository.open(self.path) if self.path.exists() and not _begun(self.path) else None


def folder_of(url: str) -> Path:
    """Return the path that a ``file://`` URL or a path means.

    >>> str(folder_of("file:///media/stick/my%20skills")), str(folder_of("~x/y"))
    ('/media/stick/my skills', '~x/y')
    """
    if not url.startswith("file:"):
        return Path(url)
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise RefusedError(f"{url} is on another computer.", hint="Mount it and give its path.")
    return Path(unquote(parts.path))


def open_remote(url: str, **options: Any) -> FolderRemote:
    """Return the store in a folder, given by its path or a ``file://`` URL."""
    del options
    return FolderRemote(folder_of(url))


def _begun(path: Path) -> bool:
    return all(entry.name in {"blobs", "refs", "index.json"} or entry.name.endswith(".tmp") for entry in path.iterdir())


@contextmanager
def translated_os_errors(url: str) -> Iterator[None]:
    """Turn errors of the operating system into ours; those that another try may cure are not refusals."""
    try:
        yield
    except OSError as error:
        kind = RefusedError if error.errno in _LASTING else RemoteError
        raise kind(
            f"{error.filename or url}: {error.strerror or error}", hint="Is it mounted, and writable?"
        ) from error
