"""Requests to one repository of a registry, with authorization, and its errors in words."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from skillpack_store.descriptors import DOCUMENT_LIMIT, parse_json
from skillpack_store.errors import NotFoundError, RemoteError
from skillpack_store.remotes.client import Answer, origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from urllib3 import BaseHTTPResponse

    from skillpack_store.remotes.client import Body, Client
    from skillpack_store.remotes.oci.tokens import Authorizer

__all__ = ["PULL", "PUSH", "Session", "header_of"]

PULL = "pull"
PUSH = "pull,push"
DELETE = "pull,push,delete"
_ERROR_LIMIT = 64 << 10  # bytes


class Session:
    """Requests to one repository; may be used by several threads.

    Args:
        client: The connections.
        authorizer: Knows what to authorize with.
        name: The repository, ``namespace/name``.

    Attributes:
        takes_parts: Whether large blobs are worth sending in parts; False once the registry refused one.
    """

    def __init__(self, client: Client, authorizer: Authorizer, name: str) -> None:
        self.client = client
        self.name = name
        self.takes_parts = True
        self._authorizer = authorizer

    def url(self, path: str) -> str:
        """Return the URL of something in the repository; a whole URL stays what it is."""
        return path if path.startswith(("http://", "https://")) else f"{self.client.home}/v2/{self.name}/{path}"

    def location(self, answer: Answer) -> str:
        """Return the URL that an answer leads to; empty if it leads nowhere.

        Raises:
            RemoteError: Requests may not go there.
        """
        location = header_of(answer, "Location")
        return self.client.resolve(answer.url, location) if location else ""

    @contextmanager
    def open(
        self,
        method: str,
        path: str,
        *,
        action: str = PULL,
        more_scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        repeat: bool | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """Send a request, a second time if the registry asks for (other) authorization.

        Args:
            method: The HTTP method.
            path: Below the repository, or a whole URL. Only the registry itself gets to see the authorization.
            action: What the request does there, ``PULL``, ``PUSH`` or ``DELETE``.
            more_scope: Another scope that it needs.
            headers: See ``Client.open``.
            body: See ``Client.open``.
            repeat: See ``Client.open``.

        Raises:
            AuthenticationError: The registry does not let it happen.
            RemoteError: It cannot be reached.
        """
        url = self.url(path)
        own = origin_of(url) == origin_of(self.client.home)
        scope = f"repository:{self.name}:{action} {more_scope}".strip()
        authorization = self._authorizer.header(scope) if own else ""
        with self.client.open(
            method, url, headers=headers, body=body, authorization=authorization, repeat=repeat
        ) as response:
            if response.status != 401 or not own:
                yield response
                return
            asked = response.headers.get("WWW-Authenticate", "")
            for _ in self.client.chunks(response):
                break
        authorization = self._authorizer.answer(asked, scope, used=authorization)
        with self.client.open(
            method, url, headers=headers, body=body, authorization=authorization, repeat=repeat
        ) as response:
            if response.status == 401:
                raise self._authorizer.refused(f"; it keeps asking for authorization to {action}")
            yield response

    def fetch(
        self,
        method: str,
        path: str,
        *,
        limit: int = DOCUMENT_LIMIT,
        action: str = PULL,
        more_scope: str = "",
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        repeat: bool | None = None,
    ) -> Answer:
        """Send a request and read the whole answer (see ``open``), at most ``limit`` bytes."""
        with self.open(
            method, path, action=action, more_scope=more_scope, headers=headers, body=body, repeat=repeat
        ) as response:
            return self.client.whole(response, limit)

    def refusal(self, response: Answer | BaseHTTPResponse, what: str) -> RemoteError | NotFoundError:
        """Return the error for an answer that says no.

        Args:
            response: The answer.
            what: What was to be done, as a part of a sentence: "blob sha256:… could not be read".
        """
        data = response.data if isinstance(response, Answer) else self._start_of(response)
        said = _explanation(data)
        if response.status in {401, 403}:
            return self._authorizer.refused(said)
        if response.status == 404:
            return NotFoundError(f"{self.client.home}/{self.name} does not have it: {what}{said}.")
        return RemoteError(f"{self.client.home} answered with {response.status}: {what}{said}.")

    def _start_of(self, response: BaseHTTPResponse) -> bytes:
        data = bytearray()
        for chunk in self.client.chunks(response):
            data += chunk
            if len(data) > _ERROR_LIMIT:
                break
        return bytes(data)


def header_of(response: Answer | BaseHTTPResponse, name: str) -> str:
    """Return a header of an answer, empty if it is not there."""
    return response.headers.get(name) or ""


def _explanation(data: bytes) -> str:
    """Return what the errors of an answer say, as the end of a sentence; nothing if they cannot be read."""
    try:
        first = parse_json(data, limit=_ERROR_LIMIT)["errors"][0]
        text = f"{first['code']}: {first.get('message', '')}"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return ""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)[:200]
    return f" ({shown.strip().rstrip('.:')})"
