"""What a transfer did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack_store.descriptors import parse_digest
from skillpack_store.errors import NotFoundError, RemoteError, StoreError
from skillpack_store.refs import SHARED_KINDS, check_ref
from skillpack_store.transfer.trying import trying

if TYPE_CHECKING:
    from skillpack_store.remotes.protocol import Remote

__all__ = ["RefChange", "TransferReport", "ls_remote"]


@dataclass(frozen=True)
class RefChange:
    """A ref that was moved, or that would be after a dry run.

    Attributes:
        ref: ``heads/main``, ``tags/v1``, ``remotes/origin/main`` or ``referrers/sha256-<hex>``.
        old: The digest that it named before; None if it was not there.
        new: The digest that it names now; None if it was deleted.
        forced: The new commit does not follow the old one.
    """

    ref: str
    old: str | None
    new: str | None
    forced: bool = False


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did, or would do after a dry run.

    Attributes:
        url: The remote.
        changes: Refs that moved, on the side that received.
        kept: Tags that were left alone because they name another commit on this side.
        blobs: How many blobs were transferred, documents included.
        nbytes: Their bytes; what an earlier, interrupted transfer left counts too.
        attachments: How many attachments the receiving side had not listed.
        dry_run: Nothing was changed.
        skills: Names of the skills, if only some were asked for.
    """

    url: str
    changes: tuple[RefChange, ...] = ()
    kept: tuple[RefChange, ...] = ()
    blobs: int = 0
    nbytes: int = 0
    attachments: int = 0
    dry_run: bool = False
    skills: tuple[str, ...] = ()


def ls_remote(remote: Remote) -> dict[str, str]:
    """Return the refs of a remote, sorted; those with names that no ref can have are refused.

    Raises:
        RemoteError: The remote cannot be reached, or answers what no store would.
    """
    found = {}
    for ref, digest in sorted(trying(remote.refs).items()):
        kind, _, name = ref.partition("/")
        try:
            found[f"{_shared(kind)}/{check_ref(name)}"] = parse_digest(digest)
        except (StoreError, ValueError) as error:
            raise RemoteError(
                f"{remote.url} has a ref that cannot be: {error}", hint="Check that the address is that of a library."
            ) from None
    return found


def _shared(kind: str) -> str:
    if kind in SHARED_KINDS:
        return kind
    raise ValueError(f"{kind[:120]!r} is not a kind of ref")


def require_refs(remote: Remote) -> dict[str, str]:
    """Return the refs of a remote from which something is wanted.

    Raises:
        NotFoundError: It has none.
    """
    found = ls_remote(remote)
    if not any(ref.startswith(("heads/", "tags/")) for ref in found):
        raise NotFoundError(
            f"There is no library in {remote.url} yet.",
            hint="Check the address; a library gets there with skillpack push.",
        )
    return found
