"""Branches and tags: making, moving and deleting them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack_store.commits import add_tag
from skillpack_store.errors import NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref
from skillpack_store.revisions import KINDS, resolve_revision
from skillpack_store.securing import secure_commit
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from skillpack_store.repository import Repository

__all__ = ["create_branch", "delete_ref", "only_named_by", "tag_revision"]


def create_branch(repository: Repository, name: str, revision: str) -> str:
    """Make a branch at a commit and return the commit's digest.

    Raises:
        StoreError: It exists and names another commit.
        NotFoundError: There is no such commit, or it is not whole.
        BusyError: Somebody else made it meanwhile.
    """
    ref = f"heads/{check_ref(name)}"
    digest = resolve_revision(repository, revision)
    found = repository.refs.read(ref)
    if found is not None and found.digest != digest:
        raise StoreError(
            f"The branch {name} exists and names commit {found.digest}.",
            hint=f"Choose another name, or bring its state to {revision}: skillpack restore {revision} --branch {name}",
        )
    if found is None:
        with repository.writing():
            secure_commit(repository, digest)
            repository.refs.update(ref, digest, expected=None)
            refresh_index(repository)
    return digest


def tag_revision(repository: Repository, name: str, revision: str, *, move: bool) -> str:
    """Make or move a tag and return the digest of the commit that it names; errors as for ``Repository.tag``."""
    check_ref(name)
    digest = resolve_revision(repository, revision)
    add_tag(repository, name, digest, move=move)
    return digest


def delete_ref(repository: Repository, ref: str, *, dry_run: bool = False) -> str:
    """Delete a branch or a tag, whose log stays; returns the digest of the commit that it named.

    Args:
        repository: The store.
        ref: ``heads/…`` or ``tags/…``.
        dry_run: Only say what it names.

    Raises:
        NotFoundError: It is not there.
        BusyError: Somebody else moved it in this instant.
    """
    kind, _, name = ref.partition("/")
    value = repository.refs.read(ref)
    if value is None or value.digest is None:
        existing = repository.branches() if kind == "heads" else repository.tags()
        raise NotFoundError(f"There is no {KINDS[kind]} {name!r}.", hint=choices(name, existing, KINDS[kind]))
    if not dry_run:
        repository.refs.delete(ref, expected=value.digest)
        refresh_index(repository)
    return value.digest


def only_named_by(repository: Repository, ref: str) -> int:
    """Return how many commits a branch or tag keeps that no other branch or tag does."""
    value = repository.refs.read(ref)
    if value is None or value.digest is None:
        return 0
    refs = {f"heads/{name}": digest for name, digest in repository.branches().items()}
    refs |= {f"tags/{name}": digest for name, digest in repository.tags().items()}
    others = [digest for name, digest in refs.items() if name != ref]
    return len(repository.graph.ancestors(value.digest).keys() - repository.graph.ancestors(*others).keys())
