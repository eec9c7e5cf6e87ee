"""What buckets and web servers have in common: obstore, and what its errors mean."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from skillpack_store.errors import NotFoundError, RefusedError, RemoteError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CLIENT", "RETRY", "need_obstore", "object_size", "read_object", "translated"]

# Requests that fail are tried again here, for a short time; longer interruptions are the business of the transfer.
RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
# For one request, a part of a blob at most; what arrived before it ran out is gone on from.
CLIENT: Any = {"timeout": timedelta(minutes=10), "connect_timeout": timedelta(seconds=10)}


def need_obstore() -> None:
    """Check that obstore is installed.

    Raises:
        StoreError: It is not.
    """
    try:
        import obstore  # noqa: F401
    except ModuleNotFoundError:
        raise StoreError(
            "Buckets and web addresses need the package obstore.", hint='Run: pip install "skillpack[remotes]"'
        ) from None


def read_object(store: Any, url: str, path: str, start: int = 0) -> Iterator[bytes]:
    """Yield an object from byte ``start`` on.

    Raises:
        NotFoundError: It is not there.
        RemoteError: The connection broke.
    """
    import obstore
    from obstore.exceptions import NotSupportedError

    passed_over = 0
    with translated(url):
        try:
            found = obstore.get(store, path, options={"range": {"offset": start}} if start else {})
        except NotSupportedError:
            # The server knows no ranges and sent all of it.
            found = obstore.get(store, path)
            passed_over = start
        # As it comes in: what waits to fill a larger chunk is lost when the connection breaks.
        for chunk in found.stream(min_chunk_size=1):
            data = bytes(chunk)
            yield data[passed_over:]
            passed_over -= min(passed_over, len(data))


def object_size(store: Any, url: str, path: str) -> int | None:
    """Return the size of an object in bytes; None if it is not there."""
    import obstore

    try:
        with translated(url):
            return obstore.head(store, path)["size"]
    except NotFoundError:
        return None


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn obstore's errors into ours."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"{url}: {_first_line(error)}") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise RefusedError(
            f"{url} refuses: {_first_line(error)}",
            hint="Check the credentials in the environment, and what they permit.",
        ) from error
    except (BaseError, OSError) as error:
        raise RemoteError(f"{url}: {_first_line(error)}", hint="Check the address and the connection.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
