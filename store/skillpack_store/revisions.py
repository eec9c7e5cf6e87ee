"""Revisions: how users name a commit.

main, v1            a branch or a tag
heads/x, tags/x     the same, where a branch and a tag have one name
origin/main         what a branch of a remote named when it was looked at last; remotes/origin/main is the same
sha256:3f2a9c1b     a commit by the start of its digest, at least 8 digits
main@{2}            what the branch or tag named before its last 2 changes, by its ref log; @{0} is now
main~3              3 commits back by first parents; ~ alone is ~1; may follow any of the others
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from skillpack_store.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.refs import check_ref

if TYPE_CHECKING:
    from skillpack_store.repository import Repository

__all__ = ["Revision", "find_ref", "parse_revision", "resolve_revision"]

_REVISION = re.compile(
    r"(?P<base>sha256:[0-9a-f]{8,64}|[A-Za-z0-9][^~@{}^:]*)(?:@\{(?P<entry>[0-9]{1,9})\})?(?P<back>(?:~[0-9]{0,9})*)"
)
_HINT = (
    "Write a branch or a tag, origin/main for a branch of a remote, main~2, main@{1}, or sha256: with at least the "
    "first 8 digits of a commit's digest."
)
_SHOWN = 5
KINDS = {"heads": "branch", "tags": "tag"}
_REMOTES = "remotes/"


@dataclass(frozen=True)
class Revision:
    """A revision, taken apart.

    Attributes:
        base: Branch, tag, branch of a remote, or start of a digest.
        entry: How many changes of the ref to go back; None where the ref log does not matter.
        back: How many first parents to go back from there.
    """

    base: str
    entry: int | None = None
    back: int = 0


def parse_revision(text: str) -> Revision:
    """Take a revision apart.

    Raises:
        StoreError: It is none.

    >>> parse_revision("main~2")
    Revision(base='main', entry=None, back=2)
    >>> parse_revision("heads/main@{1}~~")
    Revision(base='heads/main', entry=1, back=2)
    >>> parse_revision("origin/main~").base
    'origin/main'
    >>> parse_revision("sha256:0123abcd").base
    'sha256:0123abcd'
    >>> parse_revision("main^2")
    Traceback (most recent call last):
    skillpack_store.errors.StoreError: 'main^2' does not name a commit.
    """
    found = _REVISION.fullmatch(text)
    if found is None or (found["base"].startswith("sha256:") and found["entry"] is not None):
        raise StoreError(f"{text[:200]!r} does not name a commit.", hint=_HINT)
    if not found["base"].startswith("sha256:"):
        for part in found["base"].removeprefix(_REMOTES).split("/", maxsplit=1):
            check_ref(part)
    steps = [int(step or 1) for step in found["back"].split("~")[1:]]
    return Revision(found["base"], None if found["entry"] is None else int(found["entry"]), sum(steps))


def resolve_revision(repository: Repository, text: str) -> str:
    """Return the digest of the commit that a revision names.

    Raises:
        NotFoundError: There is none; the hint says what there is.
        StoreError: It is no revision, or it could mean several commits.
    """
    revision = parse_revision(text)
    if revision.base.startswith("sha256:"):
        digest = _by_digest(repository, revision.base)
    elif revision.entry is not None:
        digest = _by_entry(repository, find_ref(repository, revision.base, deleted=True), revision.entry)
    else:
        value = repository.refs.read(find_ref(repository, revision.base))
        if value is None or value.digest is None:
            raise NotFoundError(f"{revision.base} was just deleted by somebody else.", hint=_HINT)
        digest = value.digest
    return _back(repository, text, digest, revision.back) if revision.back else digest


def find_ref(repository: Repository, name: str, *, deleted: bool = False) -> str:
    """Return the full name of a ref: ``heads/…``, ``tags/…`` or ``remotes/<remote>/…``.

    Args:
        repository: The store.
        name: With or without its kind.
        deleted: Whether one that was deleted will do, if there is no other.

    Raises:
        NotFoundError: There is none; the hint says what there is.
        StoreError: A branch and a tag have the name and name different commits.
    """
    candidates = _candidates(name)
    values = {ref: repository.refs.read(ref) for ref in candidates}
    found = [ref for ref, value in values.items() if value is not None]
    if len({values[ref].digest for ref in found}) > 1:  # type: ignore[union-attr]
        raise StoreError(
            f"{name} is a branch and a tag, and they name different commits.",
            hint=f"Write heads/{name} for the branch, or tags/{name} for the tag.",
        )
    if not found and deleted:
        found = [ref for ref in candidates if repository.refs.log(ref)]
    if found:
        return found[0]
    raise _unknown(repository, name, candidates)


def _candidates(name: str) -> list[str]:
    kind, slash, _ = name.partition("/")
    for part in name.removeprefix(_REMOTES).split("/", maxsplit=1):
        check_ref(part)
    if not slash:
        return [f"{kind}/{name}" for kind in KINDS]
    return [name if kind in KINDS or name.startswith(_REMOTES) else _REMOTES + name]


def _unknown(repository: Repository, name: str, candidates: list[str]) -> NotFoundError:
    if candidates[0].startswith(_REMOTES):
        short, known = candidates[0].removeprefix(_REMOTES), repository.refs.list("remotes")
        return NotFoundError(f"No branch {short!r} was fetched.", hint=choices(short, known, "branch of a remote"))
    what = KINDS[candidates[0].partition("/")[0]] if len(candidates) == 1 else "branch or tag"
    short = name.rpartition("/")[2]
    gone = [ref for ref in candidates if repository.refs.log(ref)]
    if gone:
        kind = KINDS[gone[0].partition("/")[0]]
        return NotFoundError(f"The {kind} {short!r} was deleted.", hint=f"skillpack undelete {short} brings it back.")
    existing = {**repository.branches(), **repository.tags()}
    if candidates[0].startswith("tags/"):
        existing = repository.tags()
    elif len(candidates) == 1:
        existing = repository.branches()
    return NotFoundError(f"There is no {what} {short!r}.", hint=choices(short, existing, what))


def _by_digest(repository: Repository, prefix: str) -> str:
    if len(prefix) == len("sha256:") + 64:
        return repository.read_commit(prefix).digest
    found = [digest for digest in repository.blobs if digest.startswith(prefix) and _is_commit(repository, digest)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFoundError(f"No commit has a digest that starts with {prefix}.", hint="skillpack log lists commits.")
    known = ", ".join(digest[:31] for digest in found[:_SHOWN])
    raise StoreError(f"{len(found)} commits have a digest that starts with {prefix}.", hint=f"Give more: {known}.")


def _is_commit(repository: Repository, digest: str) -> bool:
    try:
        repository.read_commit(digest)
    except (NotFoundError, CorruptStoreError):
        return False
    except StoreError:
        # Too large to be a document.
        return False
    return True


def _by_entry(repository: Repository, ref: str, entry: int) -> str:
    log = repository.refs.log(ref)
    short = ref.partition("/")[2]
    if entry >= len(log):
        known = f"{short}@{{0}}" if len(log) == 1 else f"{short}@{{0}} to {short}@{{{len(log) - 1}}}"
        raise NotFoundError(f"The ref log of {short} has no entry {entry}.", hint=f"It has {known}.")
    digest = log[entry].digest
    if digest is None:
        raise NotFoundError(f"{short} was deleted at {short}@{{{entry}}}.", hint=f"Try {short}@{{{entry + 1}}}.")
    return digest


def _back(repository: Repository, text: str, digest: str, steps: int) -> str:
    line = [record.digest for record in islice(repository.graph.first_parents(digest), steps + 1)]
    if len(line) <= steps:
        base = text.partition("~")[0]
        oldest = base if len(line) == 1 else f"{base}~{len(line) - 1}"
        raise NotFoundError(f"The history does not reach back to {text}.", hint=f"Its first commit is {oldest}.")
    return line[-1]
