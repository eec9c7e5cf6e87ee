"""Who somebody is to a registry, as docker and podman keep it.

Files: docker's ``config.json`` (``auths``, ``credHelpers``, ``credsStore``) and podman's ``auth.json``. Helper programs
speak the protocol of https://github.com/docker/docker-credential-helpers: ``docker-credential-<name> get`` with the
registry on standard input.
"""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack_store.descriptors import parse_json
from skillpack_store.errors import AuthenticationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Credentials", "default_config_files", "find_credentials"]

_LIMIT = 1 << 20  # bytes of a config file, or of a helper's answer
_PATIENCE = 60  # seconds; a helper may ask its user
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_IDENTITY = "<token>"
_DOCKER_HUB = "https://index.docker.io/v1/"


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a token; none of the secrets shows in a ``repr``.

    Attributes:
        username: The name.
        password: The password, or an access token in place of one.
        identity_token: An OAuth2 refresh token, exchanged for a bearer token.
        registry_token: A bearer token, used as it is.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of the header ``Authorization``; empty without a name."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def default_config_files(home: Path | None = None) -> list[Path]:
    """Return where docker and podman keep credentials unless they are told otherwise, the first to look at first."""
    home = Path.home() if home is None else home
    return [home / ".docker" / "config.json", home / ".config" / "containers" / "auth.json"]


def find_credentials(host: str, name: str, files: Iterable[Path]) -> Credentials | None:
    """Return what the first of these files that knows the registry says; None if none does.

    Args:
        host: The registry as users write it, such as ``ghcr.io`` or ``localhost:5000``.
        name: The repository; podman may have credentials for a part of a registry.
        files: Those that are not there are passed over.

    Raises:
        AuthenticationError: A file or a helper program cannot be used.
    """
    for path in files:
        if path.is_file():
            found = _in_file(host, name, path)
            if found is not None:
                return found
    return None


def _in_file(host: str, name: str, path: Path) -> Credentials | None:
    config = _read_config(path)
    helpers = config.get("credHelpers")
    helper = helpers.get(host) if isinstance(helpers, dict) else None
    helper = helper or config.get("credsStore")
    server = _DOCKER_HUB if host == "docker.io" else host
    if helper:
        found = _ask_helper(helper, server, path)
        if found is not None:
            return found
    auths = config.get("auths")
    entries = {_registry_of(key): entry for key, entry in auths.items()} if isinstance(auths, dict) else {}
    for key in _keys(host, name):
        entry = entries.get(key)
        if isinstance(entry, dict) and (found := _from_entry(entry, path)) is not None:
            return found
    return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            config = parse_json(file.read(_LIMIT + 1), limit=_LIMIT)
        if isinstance(config, dict):
            return config
        reason = "it is not a JSON object"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise AuthenticationError(
        f"The credentials in {path} cannot be read: {reason}.", hint="Repair the file, or run docker login again."
    )


def _keys(host: str, name: str) -> Iterator[str]:
    """Yield the keys that may hold the credentials, the most specific first."""
    parts = name.split("/")
    for count in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:count]])
    yield host
    if host == "docker.io":
        yield "index.docker.io"


def _registry_of(key: str) -> str:
    """Return a key of ``auths`` without what docker puts around the registry.

    >>> _registry_of("https://index.docker.io/v1/"), _registry_of("quay.io/team")
    ('index.docker.io', 'quay.io/team')
    """
    return re.sub(r"/v[12]/?$", "", re.sub(r"^https?://", "", key)).rstrip("/")


def _from_entry(entry: dict[str, Any], path: Path) -> Credentials | None:
    username, password = entry.get("username"), entry.get("password")
    if coded := entry.get("auth"):
        try:
            username, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError, TypeError):
            raise AuthenticationError(
                f"The credentials in {path} cannot be read: an auth is not base64.", hint="Run docker login again."
            ) from None
        # Docker pads what it writes with zero bytes.
        password = password.rstrip("\0")
    fields = (username, password, entry.get("identitytoken"), entry.get("registrytoken"))
    found = Credentials(*(value if isinstance(value, str) else "" for value in fields))
    return found if found.username or found.identity_token or found.registry_token else None


def _ask_helper(helper: object, server: str, path: Path) -> Credentials | None:
    """Run the helper program; None if it has no credentials for the server."""
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        raise AuthenticationError(f"{path} names a credential helper that cannot be: {str(helper)[:80]!r}.")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(  # noqa: S603  the program that the user's own configuration names, without a shell
            [program, "get"], input=server.encode(), capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AuthenticationError(
            f"The credential helper {program} that {path} names cannot be used: {type(error).__name__}.",
            hint=f"Install {program}, or take it out of the file and log in again.",
        ) from error
    if done.returncode:
        said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
        if "not found" in said.lower():
            return None
        raise AuthenticationError(f"The credential helper {program} failed: {said[:200] or done.returncode}.")
    return _from_helper(done.stdout, program)


def _from_helper(answer: bytes, program: str) -> Credentials:
    try:
        document = parse_json(answer, limit=_LIMIT)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, TypeError, KeyError):
        username = secret = None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise AuthenticationError(f"The answer of the credential helper {program} cannot be read.")
    return Credentials(identity_token=secret) if username == _IDENTITY else Credentials(username, secret)
