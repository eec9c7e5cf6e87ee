"""HTTP for remotes that are not trusted: bounded answers, timeouts, few redirects, and no secret for a third party."""

from __future__ import annotations

import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from skillpack_store.errors import RemoteError
from skillpack_store.remotes.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from urllib3 import BaseHTTPResponse

    Body: TypeAlias = "bytes | Callable[[], Iterable[bytes]] | None"

__all__ = ["Answer", "Client", "origin_of"]

_CHUNK = 1 << 20  # bytes
_REDIRECTS = 5
_REDIRECTING = {301, 302, 303, 307, 308}
# 500 too: a registry that keeps files answers so when a tag is read at the moment when another client writes it.
_PASSING = {429, 500, 502, 503, 504}
_TRIES = 4
_LONGEST_PAUSE = 20.0  # seconds
_SLOWEST = 4096  # bytes a second, over the time of one timeout
_SAFE = {"GET", "HEAD"}


@dataclass(frozen=True)
class Answer:
    """An answer that was read to its end.

    Attributes:
        status: The HTTP status.
        headers: Case does not matter.
        data: The content.
        url: Where it came from in the end.
    """

    status: int
    headers: Mapping[str, str]
    data: bytes
    url: str


class Client:
    """Connections to one server and to those that it redirects to; may be used by several threads.

    Args:
        home: The server's URL. Plain HTTP is only spoken to this machine, or with ``insecure``.
        insecure: Plain HTTP is fine.
        timeout: Seconds to wait for a connection, and for an answer to begin or go on. An answer that brings less
            than 4 KiB a second for that long is given up as well.
        pause: Seconds before the first new try of a request that may be repeated; doubled each time.

    Raises:
        RemoteError: ``home`` is plain HTTP to another machine, and ``insecure`` is not set.
    """

    def __init__(self, home: str, *, insecure: bool = False, timeout: float = 60.0, pause: float = 0.5) -> None:
        self.home = home
        self.timeout = timeout
        self._insecure = insecure
        self._pause = pause
        self._pools: dict[str | None, urllib3.PoolManager] = {}
        self.check(home)

    def check(self, url: str) -> str:
        """Return ``url`` if requests may go there.

        Raises:
            RemoteError: It is no HTTP URL, or plain HTTP where that was not asked for.
        """
        try:
            parts = urlsplit(url)
            plain, host = parts.scheme == "http", parts.hostname or ""
            _ = parts.port
        except ValueError:
            plain, host = False, ""
        if not host or not url.startswith(("http://", "https://")):
            raise RemoteError(f"{self.home} leads to {_shown(url)!r}, which is not an address of the web.")
        if plain and not self._insecure and not (is_loopback(host) and is_loopback(urlsplit(self.home).hostname or "")):
            raise RemoteError(
                f"{_shown(url)} is plain HTTP: what is sent can be read, and what is received changed, on the way.",
                hint="Use HTTPS, or ask for an insecure connection if the network is yours.",
            )
        return url

    def resolve(self, base: str, location: str) -> str:
        """Return where a ``Location`` in the answer of ``base`` leads.

        Raises:
            RemoteError: Requests may not go there (see ``check``).
        """
        try:
            return self.check(urljoin(base, location))
        except ValueError:
            raise RemoteError(
                f"{_shown(base)} leads to {_shown(location)!r}, which is not an address of the web."
            ) from None

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        authorization: str = "",
        repeat: bool | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """Send a request and give the answer, whatever its status; GET and HEAD follow redirects.

        Args:
            method: The HTTP method.
            url: Where to; ``check`` must allow it, and everything that it redirects to.
            headers: More headers.
            body: Content to send; a function gives it anew at each try.
            authorization: The header of this name; kept from every other server that it is redirected to.
            repeat: Whether doing it twice does no harm, so that it may be tried again when a connection breaks or the
                server is busy. Default: for GET and HEAD.

        Raises:
            RemoteError: No answer, not in time, or too many redirects.
        """
        response = self._answer(method, url, dict(headers or {}), body, authorization, repeat=repeat)
        try:
            yield response
        finally:
            response.close()

    def fetch(
        self,
        method: str,
        url: str,
        *,
        limit: int,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        authorization: str = "",
        repeat: bool | None = None,
    ) -> Answer:
        """Send a request and read the whole answer, at most ``limit`` bytes of it (see ``open``).

        Raises:
            RemoteError: The answer is longer, or see ``open``.
        """
        with self.open(method, url, headers=headers, body=body, authorization=authorization, repeat=repeat) as response:
            return self.whole(response, limit)

    def whole(self, response: BaseHTTPResponse, limit: int) -> Answer:
        """Read an answer to its end.

        Raises:
            RemoteError: It is longer than ``limit`` bytes, or the connection broke.
        """
        data, url = bytearray(), response.url or self.home
        for chunk in self.chunks(response):
            data += chunk
            if len(data) > limit:
                raise RemoteError(f"{_shown(url)} answered with more than the {limit} bytes expected.")
        return Answer(response.status, response.headers, bytes(data), url)

    def chunks(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        """Yield the content of an answer as it arrives.

        Raises:
            RemoteError: The connection broke, or brings next to nothing.
        """
        waited, received = 0.0, 0
        while True:
            start = time.monotonic()
            try:
                chunk = response.read1(_CHUNK, decode_content=False)
            except (HTTPError, OSError) as error:
                raise self._broken(response.url or self.home, error) from error
            if not chunk:
                return
            waited, received = waited + time.monotonic() - start, received + len(chunk)
            if waited > self.timeout:
                if received < _SLOWEST * self.timeout:
                    raise RemoteError(
                        f"{_shown(response.url or self.home)} sent only {received} bytes in {waited:.0f} seconds.",
                        hint="Try again later, or allow it more time.",
                    )
                waited, received = 0.0, 0
            yield chunk

    def _answer(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
        authorization: str,
        *,
        repeat: bool | None,
    ) -> BaseHTTPResponse:
        origin, first = origin_of(self.check(url)), url
        for _ in range(_REDIRECTS + 1):
            sent = {"Accept-Encoding": "identity", "User-Agent": "skillpack", **headers}
            if authorization and origin_of(url) == origin:
                sent["Authorization"] = authorization
            repeated = method in _SAFE if repeat is None else repeat
            response = self._send(method, url, sent, body, tries=_TRIES if repeated else 1)
            if method not in _SAFE or response.status not in _REDIRECTING:
                response.url = url
                return response
            response.close()
            url = self.resolve(url, response.headers.get("Location", ""))
        raise RemoteError(f"{_shown(first)} redirects again and again, last to {_shown(url)!r}.")

    def _send(self, method: str, url: str, headers: dict[str, str], body: Body, *, tries: int) -> BaseHTTPResponse:
        for attempt in range(tries):
            pause = self._pause * 2**attempt
            try:
                response = self._once(method, url, headers, body)
            except RemoteError:
                if attempt + 1 == tries:
                    raise
            else:
                if response.status not in _PASSING or attempt + 1 == tries:
                    return response
                asked = response.headers.get("Retry-After", "")
                pause = max(pause, float(asked)) if asked.isdigit() and len(asked) < 6 else pause
                if pause > _LONGEST_PAUSE:
                    return response
                response.close()
            time.sleep(pause)
        raise AssertionError  # The last try returned or raised.

    def _once(self, method: str, url: str, headers: dict[str, str], body: Body) -> BaseHTTPResponse:
        try:
            return self._pool(url).request(
                method,
                url,
                body=body() if callable(body) else body,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise self._broken(url, error) from error

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Return the connections that lead to ``url``: through a proxy where the system has one set."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        bypass = is_loopback(host) or urllib.request.proxy_bypass(host)
        proxy = None if bypass else urllib.request.getproxies().get(parts.scheme)
        if proxy not in self._pools:
            timeout = urllib3.Timeout(connect=min(self.timeout, 20.0), read=self.timeout)
            if proxy is None:
                self._pools[proxy] = urllib3.PoolManager(maxsize=16, timeout=timeout)
            else:
                self._pools[proxy] = urllib3.ProxyManager(proxy, maxsize=16, timeout=timeout)
        return self._pools[proxy]

    def _broken(self, url: str, error: Exception) -> RemoteError:
        return RemoteError(
            f"{_shown(url)} cannot be reached, or the connection broke: {_reason(error)}.",
            hint="Check the address and the network, then run it again; what arrived is not sent twice.",
        )


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port; secrets for one origin are not shown to another.

    >>> origin_of("https://ghcr.io/v2/") == origin_of("https://GHCR.io:443/token")
    True
    """
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _shown(url: str) -> str:
    """Return a URL without its query, which may hold secrets (signed redirects)."""
    return url.partition("?")[0][:200]


def _reason(error: Exception) -> str:
    text = str(error.__cause__ or error) or type(error).__name__
    return text.partition("?")[0].rstrip(".")[:200]
