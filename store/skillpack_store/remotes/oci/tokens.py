"""Authorization at a registry: basic, or bearer tokens that a token server gives for a scope.

Specification: https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode
from urllib.request import parse_http_list

from skillpack_store.descriptors import parse_json
from skillpack_store.errors import AuthenticationError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from skillpack_store.remotes.client import Answer, Client
    from skillpack_store.remotes.oci.credentials import Credentials

__all__ = ["Authorizer", "Challenge", "parse_challenges"]

_LIMIT = 1 << 20  # bytes of a token server's answer
_DEFAULT_LIFE = 60  # seconds, by the specification
_LONGEST_LIFE = 86400
_CLIENT = "skillpack"


class Challenge(NamedTuple):
    """What a server wants to see, one way of the header ``WWW-Authenticate``.

    Attributes:
        scheme: ``basic`` or ``bearer``.
        parameters: ``realm`` and more.
    """

    scheme: str
    parameters: dict[str, str]


class _Token(NamedTuple):
    header: str
    expires: float  # time.monotonic


class Authorizer:
    """Knows what to put into the header ``Authorization`` of requests to one registry; may be used by several threads.

    Args:
        client: For the token server.
        host: The registry as users write it.
        find: Looks the credentials up; called once, and only when the registry asks.
    """

    def __init__(self, client: Client, host: str, find: Callable[[], Credentials | None]) -> None:
        self._client = client
        self._host = host
        self._find = find
        self._looked = False
        self._credentials: Credentials | None = None
        self._basic = ""
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.RLock()

    def header(self, scope: str) -> str:
        """Return what to send with the first try; empty if that is not known yet, or ran out."""
        with self._lock:
            token = self._tokens.get(scope)
            return token.header if token is not None and token.expires > time.monotonic() else self._basic

    def answer(self, challenges: str, scope: str, *, used: str) -> str:
        """Return what to send after a 401.

        Args:
            challenges: The header ``WWW-Authenticate``.
            scope: What the request needs, in the form ``repository:<name>:pull,push``.
            used: What the request was sent with.

        Raises:
            AuthenticationError: There are no credentials, or the token server does not take them.
            RemoteError: The token server cannot be reached or does not answer as it should.
        """
        with self._lock:
            current = self.header(scope)
            if current and current != used:
                # Another thread was faster.
                return current
            ways = {way.scheme: way.parameters for way in parse_challenges(challenges)}
            if "bearer" in ways:
                self._tokens[scope] = token = self._fetch(ways["bearer"], scope)
                return token.header
            if "basic" in ways:
                self._basic = self._basic_header(used)
                return self._basic
        raise RemoteError(f"{self._host} wants to know who asks, in a way that is not known: {challenges[:200]!r}.")

    def refused(self, reason: str) -> AuthenticationError:
        """Return the error for a request that the registry does not allow."""
        who = self._who()
        if who is None:
            return AuthenticationError(
                f"{self._host} wants to know who you are{reason}.", hint=f"Run docker login {self._host} first."
            )
        name = who.username or "the token that is stored"
        return AuthenticationError(
            f"{self._host} does not allow this to {name}{reason}.",
            hint=f"Check the name and the permissions of the token, then run docker login {self._host} again.",
        )

    def _who(self) -> Credentials | None:
        if not self._looked:
            self._credentials, self._looked = self._find(), True
        return self._credentials

    def _basic_header(self, used: str) -> str:
        who = self._who()
        if who is None or not who.basic or who.basic == used:
            raise self.refused("")
        return who.basic

    def _fetch(self, parameters: dict[str, str], scope: str) -> _Token:
        who = self._who()
        if who is not None and who.registry_token:
            if not _is_token(who.registry_token):
                raise AuthenticationError(
                    f"The token that is stored for {self._host} cannot be one.", hint="Log in again."
                )
            return _Token(f"Bearer {who.registry_token}", time.monotonic() + _LONGEST_LIFE)
        realm = parameters.get("realm", "")
        scopes = [scope, *(part for part in parameters.get("scope", "").split() if part not in scope.split())]
        form = {"service": parameters.get("service", ""), "scope": " ".join(scopes), "client_id": _CLIENT}
        if who is not None and who.identity_token:
            form |= {"grant_type": "refresh_token", "refresh_token": who.identity_token}
            answer = self._client.fetch(
                "POST",
                self._client.check(realm),
                limit=_LIMIT,
                headers={"Content-Type": "application/x-www-form-urlencoded"},
                body=urlencode(form).encode(),
            )
        else:
            query = [("service", form["service"]), *(("scope", one) for one in " ".join(scopes).split())]
            query += [("client_id", _CLIENT)] + ([("account", who.username)] if who is not None else [])
            separator = "&" if "?" in realm else "?"
            url = self._client.check(realm) + separator + urlencode(query)
            basic = "" if who is None else who.basic
            answer = self._client.fetch("GET", url, limit=_LIMIT, authorization=basic)
        return self._token(answer)

    def _token(self, answer: Answer) -> _Token:
        if answer.status in {400, 401, 403}:
            raise self.refused(f" (its token server answered with {answer.status})")
        if answer.status != 200:
            raise RemoteError(f"The token server of {self._host} answered with {answer.status}.")
        try:
            document = parse_json(answer.data, limit=_LIMIT)
            text = document.get("token") or document["access_token"]
            life = min(max(float(document.get("expires_in") or _DEFAULT_LIFE), 0.0), _LONGEST_LIFE)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            text, life = None, 0.0
        if not isinstance(text, str) or not _is_token(text):
            raise RemoteError(f"The answer of the token server of {self._host} cannot be read.")
        # A little early, so that it does not run out on its way.
        return _Token(f"Bearer {text}", time.monotonic() + 0.9 * life)


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable()


def parse_challenges(header: str) -> list[Challenge]:
    """Read the header ``WWW-Authenticate`` (RFC 9110, 11.6.1).

    >>> parse_challenges('Bearer realm="https://a/t",scope="repository:x:pull,push", Basic realm="b"')[0].parameters
    {'realm': 'https://a/t', 'scope': 'repository:x:pull,push'}
    """
    found: list[Challenge] = []
    for item in parse_http_list(header):
        key, _, value = item.partition("=")
        *scheme, key = key.split()[-2:] or [""]
        if scheme or not value:
            found.append(Challenge((scheme or [key])[0].lower(), {}))
        if found and value:
            found[-1].parameters[key.lower()] = value.strip().strip('"')
    return found
