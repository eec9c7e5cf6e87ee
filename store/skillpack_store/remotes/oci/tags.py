"""Refs as tags of a registry, and back.

| ref | tag |
|---|---|
| ``heads/main`` | ``main`` |
| ``heads/<branch>`` | ``<branch>--branch`` |
| ``tags/<tag>`` | ``<tag>``; with ``--tag`` behind it if it would look like one of the others |
| ``referrers/sha256-<hex>`` | ``sha256-<hex>``, the referrers tag schema of the OCI distribution specification |
| (every commit) | ``commit-<hex>``, so that the registry does not collect it; not a ref |

The name of a branch or tag never has two dashes in a row, so no two refs share a tag and every tag leads back to one.
"""

from __future__ import annotations

import re

from skillpack_store.errors import StoreError
from skillpack_store.refs import check_ref

__all__ = ["commit_tag", "ref_of", "tag_of"]

_HEX = "[0-9a-f]{64}"
_REFERRERS = re.compile(f"sha256-{_HEX}")
_TAKEN = re.compile(f"main|commit-{_HEX}|sha256-{_HEX}")
_BRANCH = "--branch"
_TAG = "--tag"


def tag_of(ref: str) -> str:
    """Return the tag of a ref.

    Raises:
        StoreError: It is not a ref.

    >>> [tag_of(ref) for ref in ("heads/main", "heads/draft", "tags/v1", "tags/main")]
    ['main', 'draft--branch', 'v1', 'main--tag']
    """
    kind, _, name = ref.partition("/")
    check_ref(name)
    if kind == "heads":
        return name if name == "main" else name + _BRANCH
    if kind == "tags":
        return name + _TAG if _TAKEN.fullmatch(name) else name
    if kind == "referrers" and _REFERRERS.fullmatch(name):
        return name
    raise StoreError(f"{ref[:120]!r} is not a ref that a registry can have.")


def ref_of(tag: str) -> str | None:
    """Return the ref of a tag; None for the tag of a commit, and for one that somebody else made.

    >>> ref_of("draft--branch"), ref_of("v1"), ref_of("v1--tag"), ref_of("sha256-0.sig--tag")
    ('heads/draft', 'tags/v1', None, None)
    """
    if _REFERRERS.fullmatch(tag):
        return f"referrers/{tag}"
    if tag == "main" or tag.endswith(_BRANCH):
        ref = f"heads/{tag.removesuffix(_BRANCH)}"
    else:
        ref = f"tags/{tag.removesuffix(_TAG)}"
    try:
        return ref if tag_of(ref) == tag else None
    except StoreError:
        return None


def commit_tag(digest: str) -> str:
    """Return the tag that keeps a commit from being collected."""
    return digest.replace("sha256:", "commit-")
