"""The skills that are compared: opened by their addresses, with weights, on one base."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skillpack.errors import UsageError, WrongBaseError
from skillpack.grafting.addresses import parse_address
from skillpack.skill import Skill, open_skill
from skillpack.summaries import label_of
from skillpack.summing import check_weight

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skillpack_store import Repository, ResolvedSkill


class Compared(NamedTuple):
    """A skill that is compared with others.

    Attributes:
        label: what it is called here, unlike any other: its name, with the version where two have one name.
        skill: opened.
        weight: factor of its delta.
    """

    label: str
    skill: Skill
    weight: float


class Found(NamedTuple):
    """A skill that was found, not opened yet.

    Attributes:
        label: see `Compared`.
        resolved: where it is.
        weight: factor of its delta.
    """

    label: str
    resolved: ResolvedSkill
    weight: float

    @property
    def digest(self) -> str:
        """Of the skill."""
        return self.resolved.descriptor.digest

    def open(self, repository: Repository) -> Compared:
        """Open it, every byte re-hashed; raises as `open_skill` does."""
        return Compared(self.label, open_skill(repository, self.digest, self.resolved.name), self.weight)


def find_all(repository: Repository, addresses: Sequence[str], branch: str) -> list[Found]:
    """Find skills by their addresses; every skill of the branch if there are none.

    Raises:
        NotFoundError: there is no such skill.
        UsageError: a weight is no number, or a version is named twice.
    """
    resolved = []
    for text in addresses or sorted(repository.skills(branch)):
        address, weight = parse_address(text)
        found = repository.resolve(address, branch)
        resolved.append((found, check_weight(found.name, weight)))
    labels = _labels([found for found, _ in resolved])
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UsageError(f"{twice} is named twice", hint="Name each skill, or each version of it, once.")
    return [Found(label, found, weight) for label, (found, weight) in zip(labels, resolved, strict=True)]


def check_one_base(skills: Iterable[Compared]) -> None:
    """Raise WrongBaseError if two of these skills go on different bases."""
    first: Compared | None = None
    for skill in skills:
        if first is None:
            first = skill
        if skill.skill.manifest.base_fingerprint != first.skill.manifest.base_fingerprint:
            raise WrongBaseError(
                f"{first.label} and {skill.label} were packed from different bases",
                hint="Compare skills of one base; skillpack rebase moves a skill to a newer one.",
            )


def _labels(found: Sequence[ResolvedSkill]) -> list[str]:
    names = [skill.name for skill in found]
    return [skill.name if names.count(skill.name) == 1 else label_of(skill) for skill in found]
