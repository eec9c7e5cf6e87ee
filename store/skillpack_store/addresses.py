"""Addresses of skills, as users write them: ``math``, ``math@3``, ``math@<tag>``, ``math@sha256:<hex>``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from skillpack_store.errors import StoreError
from skillpack_store.refs import check_ref

__all__ = ["Address", "check_skill_name", "parse_address"]

_SKILL_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_SKILL_NAME_LIMIT = 100  # characters
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_DIGEST_PREFIX = re.compile(r"sha256:[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Address:
    """Which skill is meant; at most one of ``version``, ``tag`` and ``digest`` is set.

    Attributes:
        name: The skill's name.
        version: 3 is the third distinct digest of that name in the history of the branch.
        tag: The skill as it is in the commit with this tag.
        digest: ``sha256:`` and at least the first 8 hexadecimal digits of the skill's digest.
    """

    name: str
    version: int | None = None
    tag: str | None = None
    digest: str | None = None


def check_skill_name(name: str) -> str:
    """Return ``name`` if a skill can have it.

    Lowercase letters and digits with single ``.``, ``_`` or ``-`` between them, at most 100 characters, not digits
    only. The rule of names in OCI registries, so that every skill can be pushed under its name.

    Raises:
        StoreError: It cannot.

    >>> check_skill_name("math-7b")
    'math-7b'
    >>> check_skill_name("Math")
    Traceback (most recent call last):
    skillpack_store.errors.StoreError: 'Math' cannot be the name of a skill.
    """
    if _SKILL_NAME.fullmatch(name) and len(name) <= _SKILL_NAME_LIMIT and not name.isdigit():
        return name
    raise StoreError(
        f"{name[:120]!r} cannot be the name of a skill.",
        hint="Use lowercase letters and digits with single dots, dashes or underscores between them, "
        "at most 100 characters and not digits only, such as math or math-v2.",
    )


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        StoreError: It is none.

    >>> parse_address("math@3")
    Address(name='math', version=3, tag=None, digest=None)
    >>> parse_address("math@release").tag
    'release'
    """
    name, at, rest = text.partition("@")
    check_skill_name(name)
    if not at:
        return Address(name)
    if _VERSION.fullmatch(rest):
        return Address(name, version=int(rest))
    if _DIGEST_PREFIX.fullmatch(rest):
        return Address(name, digest=rest)
    if rest.startswith("sha256:") or rest.isdigit() or not rest:
        raise StoreError(
            f"{text[:200]!r} is not the address of a skill.",
            hint=f"Write {name}, {name}@3 (the third version), {name}@<tag>, or {name}@sha256: with at least the "
            "first 8 digits of its digest in lowercase.",
        )
    return Address(name, tag=check_ref(rest))
