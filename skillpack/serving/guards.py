"""What every request passes before anything else looks at it: the host, the key, the size and type of its body."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import Headers, MutableHeaders

from skillpack.serving.failures import RequestError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from skillpack.serving.metrics import Metrics

_logger = logging.getLogger(__name__)
OPEN_PATHS: Final = frozenset({"/health"})
"""What needs no key: programs that watch over a server have none, and it tells nothing."""
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes:
        body: bytes.
        seconds: in which a body must have come.
        hosts: names under which the server may be addressed; empty for any.
    """

    body: int = 4 << 20
    seconds: float = 30.0
    hosts: frozenset[str] = frozenset()


class Guard:
    """Middleware around the whole application; it also gives requests their numbers and counts them.

    Args:
        app: what is guarded.
        key: that clients must show; None for no key.
        limits: of requests.
        metrics: counts answers.
        endpoints: paths that are counted under their own names.
    """

    def __init__(
        self, app: ASGIApp, key: str | None, limits: Limits, metrics: Metrics, endpoints: frozenset[str]
    ) -> None:
        self._app = app
        self._key = None if key is None else key.encode()
        self._limits = limits
        self._metrics = metrics
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        number = f"req_{secrets.token_hex(12)}"

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        try:
            await self._pass(scope, receive, answer)
        finally:
            path = scope["path"] if scope["path"] in self._endpoints else "other"
            self._metrics.answered(path, status, time.perf_counter() - start)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            self._check_key(scope, headers)
            body = await self._body(scope, headers, receive)
        except RequestError as error:
            await error.response(scope, receive, send)
            return
        except _GoneError:
            return
        await self._app(scope, _replay(body, receive), send)

    def _check_host(self, headers: Headers) -> None:
        """A page in a browser must not reach a server that trusts everybody on this machine, by any name it likes."""
        if not self._limits.hosts:
            return
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host
        if name.lower() not in self._limits.hosts:
            raise RequestError(403, "This server answers only under the names of this machine", code="wrong_host")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if self._key is None or scope["path"] in OPEN_PATHS:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._key):
            return
        raise RequestError(
            401, "A valid API key is needed", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
        )

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        """The whole body, if it is no larger than it may be and comes in time."""
        if scope["method"] not in {"POST", "PUT", "PATCH"}:
            return b""
        announced = headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > self._limits.body:
            raise self._too_large()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # Browsers send other types from any page without asking first.
        if kind != "application/json":
            raise RequestError(415, "The body must have the type application/json", code="unsupported_media_type")
        try:
            return await asyncio.wait_for(self._receive(receive), self._limits.seconds)
        except asyncio.TimeoutError:
            # What is left of the body may still come, so the connection can serve nothing more.
            raise RequestError(
                408, "The body did not come in time", code="timeout", headers={"Connection": "close"}
            ) from None

    async def _receive(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            body += message.get("body", b"")
            if len(body) > self._limits.body:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> RequestError:
        # What is left of the body is not read, so the connection can serve nothing more.
        return RequestError(
            413,
            f"The body is larger than {self._limits.body} bytes",
            code="request_too_large",
            headers={"Connection": "close"},
        )


class _GoneError(Exception):
    """The client went away before its request was there."""


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then whatever comes."""
    first: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return first.pop() if first else await receive()

    return replayed
