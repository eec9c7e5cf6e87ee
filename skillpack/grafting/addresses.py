"""How users name skills for live models: ``math``, ``math@3``, ``code=0.5`` or ``code:0.5``; and opening them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from skillpack.errors import UsageError, listing
from skillpack.installing.claims import Active
from skillpack.library import parse_weight
from skillpack.signing.checking import require_trusted
from skillpack.skill import Skill, open_skill
from skillpack.summaries import StoreLike, label_of, open_existing
from skillpack.summing import check_weight

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLON_WEIGHT: Final = re.compile(r"(?P<address>.+?(?<!@sha256)):(?P<weight>[-+]?[\d.]+(?:e[-+]?\d+)?)", re.IGNORECASE)
_OPENED: Final = 64
"""Skills that are kept open; one takes as much memory as its manifest, the rest is mapped."""


class Grafted(NamedTuple):
    """A skill on a live model.

    Attributes:
        name: of the skill.
        digest: of its content; its identity.
        weight: factor of its delta.
        label: the version as it was addressed, ``math@3``.
        nbytes: memory that it takes in overlay mode, in bytes; 0 in merged mode.
    """

    name: str
    digest: str
    weight: float
    label: str
    nbytes: int = 0


def parse_address(text: str) -> tuple[str, float]:
    """Split an address from its weight, which follows ``=`` or ``:``.

    >>> parse_address("math@3:0.5"), parse_address("code=0.7"), parse_address("math@sha256:12")
    (('math@3', 0.5), ('code', 0.7), ('math@sha256:12', 1.0))

    Raises:
        UsageError: the weight is no number.
    """
    found = _COLON_WEIGHT.fullmatch(text)
    return parse_weight(f"{found['address']}={found['weight']}" if found else text)


class Shelf:
    """The skills of a store, opened when they are first asked for.

    Args:
        store: where they are.
        branch: branch of the library.
    """

    def __init__(self, store: StoreLike, branch: str) -> None:
        self._store = store
        self._branch = branch
        self._opened: dict[str, Skill] = {}

    def find(self, addresses: Sequence[str]) -> list[Active]:
        """Open skills by their addresses, every byte re-hashed when it is first opened here.

        Raises:
            NotFoundError: there is no such skill.
            NotTrustedError: the policy requires a signature and none of a skill's counts.
            CorruptStoreError, DamagedSkillError: a skill is damaged.
            UsageError: a weight is no number, or a skill is named twice.
        """
        found = [self._find(address) for address in addresses]
        check_distinct(found)
        return found

    def _find(self, text: str) -> Active:
        address, weight = parse_address(text)
        repository = open_existing(self._store)
        resolved = repository.resolve(address, self._branch)
        digest = resolved.descriptor.digest
        # Before anything of it is read: what nobody trusted has signed need not be parsed.
        require_trusted(repository, digest, resolved.name)
        check_weight(resolved.name, weight)
        skill = self._opened.pop(digest, None)
        if skill is None or skill.name != resolved.name:
            skill = open_skill(repository, digest, resolved.name)
        self._opened[digest] = skill
        while len(self._opened) > _OPENED:
            del self._opened[next(iter(self._opened))]
        return Active(skill, weight, label_of(resolved))


def check_distinct(skills: Sequence[Active]) -> None:
    """Raise UsageError if two of these have the same name or the same content."""
    for what, values in (
        ("name", [active.skill.name for active in skills]),
        ("content", [active.skill.digest for active in skills]),
    ):
        if len(set(values)) < len(values):
            names = listing(active.skill.name for active in skills)
            raise UsageError(f"Two of the skills {names} have the same {what}", hint="Name each skill once.")


def grafted(active: Active) -> Grafted:
    """What to tell of an active skill."""
    return Grafted(active.skill.name, active.skill.digest, active.weight, active.label)
