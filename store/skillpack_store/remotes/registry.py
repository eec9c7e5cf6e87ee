"""OCI registries as remotes: ``oci://host[:port]/namespace/name``.

Skills, commits, attachments and lists of attachments are manifests of the repository, everything else is its blobs
(OCI distribution specification v1.1). Refs are tags (``skillpack_store.remotes.oci.tags``), and every commit has a
tag of its own, because registries collect what has none and do not know that our commits have parents. The skills of
a commit are children of its index, which keeps them. Attachments have a ``subject``, so that a registry with the
referrers API lists them; the list itself is always there under the tag ``sha256-<hex>`` as well.

**Races.** Registries have no compare-and-swap. ``update_ref`` looks at the tag, sends the new value with ``If-Match``
(or ``If-None-Match: *``), and looks again. Where the registry honours these headers that is a compare-and-swap. Where
it does not (docker-registry), of two writers that pass the first look together the later one wins; the other gets
``BusyError`` if it was overwritten before its second look, and otherwise is not told. Its commit is not lost: its tag
``commit-<hex>`` stays.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from skillpack_store.errors import RemoteError, StoreError
from skillpack_store.remotes.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack_store.remotes.oci.credentials import Credentials
    from skillpack_store.remotes.oci.repository import RegistryRemote

__all__ = ["open_remote"]

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_NAME_LIMIT = 255  # characters, host included, by the specification
_DOCKER_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


def open_remote(
    url: str,
    *,
    insecure: bool | None = None,
    credentials: Credentials | None = None,
    config_files: Sequence[Path] | None = None,
    mount_from: Sequence[str] = (),
    part: int | None = None,
    timeout: float = 60.0,
    pause: float = 0.5,
) -> RegistryRemote:
    """Open a repository of a registry; nothing is sent yet.

    Args:
        url: ``oci://host[:port]/namespace/name``.
        insecure: Whether to speak plain HTTP; by default only to this machine (``localhost``).
        credentials: Who asks; by default what ``config_files`` say.
        config_files: Files of docker or podman with credentials; by default theirs in the home folder.
        mount_from: Other repositories of the registry, ``namespace/name``, that may have blobs already.
        part: Bytes; larger blobs are sent in parts of this size. Default 64 MiB.
        timeout: Seconds to wait for a connection, and for an answer to begin or go on.
        pause: Seconds before the first new try of a request.

    Raises:
        StoreError: ``url`` is not the address of a repository.
        RemoteError: The package that this needs is not installed.
    """
    host, name = _parse(url)
    for other in mount_from:
        if not _NAME.fullmatch(other):
            _refuse(other)
    try:
        from skillpack_store.remotes.client import Client
        from skillpack_store.remotes.oci.credentials import default_config_files, find_credentials
        from skillpack_store.remotes.oci.repository import RegistryRemote
        from skillpack_store.remotes.oci.session import Session
        from skillpack_store.remotes.oci.tokens import Authorizer
        from skillpack_store.remotes.oci.uploads import PART
    except ModuleNotFoundError as error:
        raise RemoteError(
            f"Registries need the package {error.name}, which is not installed.",
            hint='Install it with: pip install "skillpack[remotes]"',
        ) from error
    address = "registry-1.docker.io" if host == "docker.io" else host
    plain = is_loopback(urlsplit(f"//{host}").hostname or "") if insecure is None else insecure
    home = f"{'http' if plain else 'https'}://{address}"
    client = Client(home, insecure=bool(insecure), timeout=timeout, pause=pause)
    files = default_config_files() if config_files is None else list(config_files)
    authorizer = Authorizer(client, host, lambda: credentials or find_credentials(host, name, files))
    session = Session(client, authorizer, name)
    return RegistryRemote(f"oci://{host}/{name}", session, part=part or PART, mount_from=mount_from)


def _parse(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    host, _, name = rest.partition("/")
    if scheme != "oci" or "@" in host or not _HOST.fullmatch(host):
        _refuse(url)
    if host in _DOCKER_HUB:
        host = "docker.io"
        name = name if "/" in name else f"library/{name}"
    if not _NAME.fullmatch(name) or len(host) + 1 + len(name) > _NAME_LIMIT:
        _refuse(url)
    return host, name


def _refuse(url: str) -> NoReturn:
    shown = re.sub(r"//[^/]*@", "//", url)[:200]
    raise StoreError(
        f"{shown!r} is not the address of a repository in a registry.",
        hint="Write oci://host/namespace/name in lowercase, without a tag, a name or a password; "
        "credentials come from docker login.",
    )
