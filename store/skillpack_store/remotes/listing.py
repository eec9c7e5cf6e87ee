"""The remotes that a store knows by name: ``remotes.json``. There are no secrets in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack_store import disk
from skillpack_store.descriptors import DOCUMENT_LIMIT, canonical_json, parse_json
from skillpack_store.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref
from skillpack_store.remotes.opening import check_url

if TYPE_CHECKING:
    from skillpack_store.repository import Repository

__all__ = ["NamedRemote", "RemoteList"]


@dataclass(frozen=True)
class NamedRemote:
    """A remote that a store knows.

    Attributes:
        name: What it is called here.
        url: Its address.
        insecure: Plain HTTP is allowed.
    """

    name: str
    url: str
    insecure: bool = False


class RemoteList:
    """The remotes of one store.

    Args:
        repository: The store.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._path = repository.path / "remotes.json"

    def all(self) -> dict[str, NamedRemote]:
        """Return name -> remote, sorted.

        Raises:
            CorruptStoreError: The file is damaged.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            remotes = parse_json(data, limit=DOCUMENT_LIMIT)["remotes"]
            return {name: _parse(name, entry) for name, entry in sorted(remotes.items())}
        except (ValueError, TypeError, KeyError, AttributeError, StoreError) as error:
            raise CorruptStoreError(
                f"{self._path} is damaged: {error}.", hint="Remove it and add the remotes again."
            ) from error

    def get(self, name: str) -> NamedRemote:
        """Return the remote of this name.

        Raises:
            NotFoundError: There is none.
        """
        remotes = self.all()
        if name not in remotes:
            raise NotFoundError(f"There is no remote {name!r}.", hint=choices(name, remotes, "remote"))
        return remotes[name]

    def add(self, name: str, url: str, *, insecure: bool = False) -> NamedRemote:
        """Give an address a name.

        Raises:
            StoreError: The name is taken or cannot be used, or the address cannot.
        """
        remotes = self.all()
        if name in remotes:
            raise StoreError(
                f"There is a remote {name} already: {remotes[name].url}",
                hint="Choose another name, or change it with skillpack remote set-url.",
            )
        return self._set(name, url, insecure=insecure)

    def set_url(self, name: str, url: str, *, insecure: bool = False) -> NamedRemote:
        """Give a remote another address.

        Raises:
            NotFoundError: There is no such remote.
        """
        self.get(name)
        return self._set(name, url, insecure=insecure)

    def remove(self, name: str) -> NamedRemote:
        """Forget a remote, with what its branches named; nothing at the remote changes.

        Raises:
            NotFoundError: There is no such remote.
        """
        removed = self.get(name)
        self._write({other: remote for other, remote in self.all().items() if other != name})
        refs = self._repository.refs
        for branch, value in refs.list("remotes").items():
            if branch.startswith(f"{name}/") and value.digest is not None:
                refs.delete(f"remotes/{branch}", expected=value.digest)
        return removed

    def _set(self, name: str, url: str, *, insecure: bool) -> NamedRemote:
        remote = NamedRemote(check_ref(name), _absolute(check_url(url)), insecure)
        self._write({**self.all(), name: remote})
        return remote

    def _write(self, remotes: dict[str, NamedRemote]) -> None:
        entries = {
            remote.name: {"url": remote.url, **({"insecure": True} if remote.insecure else {})}
            for remote in remotes.values()
        }
        disk.replace(self._path, [canonical_json({"remotes": entries})])


def _absolute(url: str) -> str:
    """A relative path means the same from every folder; addresses stay as they are."""
    return url if ":" in url.split("/", maxsplit=1)[0] else os.path.abspath(Path(url).expanduser())  # noqa: PTH100  not resolved


def _parse(name: str, entry: dict[str, object]) -> NamedRemote:
    return NamedRemote(check_ref(name), check_url(str(entry["url"])), entry.get("insecure") is True)
