"""From an address to a remote."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from skillpack_store.errors import RefusedError, StoreError
from skillpack_store.names import choices
from skillpack_store.remotes.folder import folder_of
from skillpack_store.remotes.protocol import WritableRemote

if TYPE_CHECKING:
    from skillpack_store.remotes.protocol import Remote

__all__ = ["ENTRY_POINTS", "check_url", "open_remote", "open_writable"]

ENTRY_POINTS = "skillpack.remotes"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")
_MODULES = {
    "az": "bucket",
    "file": "folder",
    "gs": "bucket",
    "hf": "hub",
    "http": "web",
    "https": "web",
    "memory": "memory",
    "oci": "registry",
    "s3": "bucket",
}


def open_remote(url: str, **options: Any) -> Remote:
    """Return the remote at an address.

    Args:
        url: A path or ``file://`` (a folder, or an archive if it ends in ``.tar``), ``s3://``, ``gs://``, ``az://``,
            ``http://``, ``https://``, ``oci://``, ``hf://``, ``memory://``, or a scheme that an installed package
            brings: an entry point of the group ``skillpack.remotes`` with the scheme as its name and a function
            ``open_remote(url, **options)`` as its object.
        options: For the remote, such as ``insecure=True`` to allow plain HTTP.

    Raises:
        StoreError: There is no such scheme, or a package that it needs is not installed.
        RefusedError: The address has a password in it.
    """
    check_url(url)
    scheme = _scheme(url)
    if scheme in {"", "file"}:
        path = folder_of(url)
        module = "tarball" if path.suffix == ".tar" and not path.is_dir() else "folder"
    elif scheme in _MODULES:
        module = _MODULES[scheme]
    else:
        opened: Remote = _plugin(url, scheme)(url, **options)
        return opened
    remote: Remote = import_module(f"skillpack_store.remotes.{module}").open_remote(url, **options)
    return remote


def open_writable(url: str, **options: Any) -> WritableRemote:
    """Return the remote at an address, to push to.

    Raises:
        RefusedError: One can only pull from it.
    """
    remote = open_remote(url, **options)
    if not isinstance(remote, WritableRemote):
        raise RefusedError(f"{remote.url} can only be read.", hint="Push to the folder or bucket that is served there.")
    return remote


def check_url(url: str) -> str:
    """Return an address if it is one that may be kept and shown: with no password in it.

    Raises:
        RefusedError: It has one. The message does not repeat it.

    >>> check_url("s3://bucket/skills")
    's3://bucket/skills'
    >>> check_url("https://ada:secret@example.org/skills")
    Traceback (most recent call last):
    skillpack_store.errors.RefusedError: There is a password or a key in this https address.
    """
    scheme = _scheme(url)
    if not scheme or scheme == "file":
        if not url or "\0" in url:
            raise RefusedError("An address of a remote cannot be empty.", hint="Give a path or a URL.")
        return url
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or bool(parts.username and scheme in _MODULES)
    except ValueError as error:
        raise RefusedError(f"This is not an address: {error}.") from None
    if secret or (scheme in _MODULES and (parts.query or parts.fragment)):
        raise RefusedError(
            f"There is a password or a key in this {scheme} address.",
            hint="Addresses are kept and shown. Put credentials into the environment, as the provider's own tools "
            "take them, or into docker's configuration for a registry, and give the address without.",
        )
    return url


def _scheme(url: str) -> str:
    # One letter is a drive of Windows.
    found = _SCHEME.match(url)
    return found[1] if found else ""


def _plugin(url: str, scheme: str) -> Any:
    plugins = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if scheme not in plugins:
        known = choices(scheme, [*_MODULES, *plugins], "kind of address")
        raise StoreError(f"No remote is known for {url.split(':', maxsplit=1)[0]}: addresses.", hint=known)
    return plugins[scheme].load()
