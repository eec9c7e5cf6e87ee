"""Making the skills of a model folder a given set, whatever they are now: what is declared is what is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from skillpack.errors import UsageError, listing
from skillpack.installing.changes import Change, Wanted, reopened
from skillpack.installing.claims import Active
from skillpack.summing import check_weight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skillpack.installing.model_folder import ModelFolder
    from skillpack.installing.receipt import Receipt, SkillRecord


class Declared(NamedTuple):
    """A skill that a model folder shall have.

    Attributes:
        name: of the skill.
        digest: of its content.
        weight: factor of its delta.
        label: the version as a user addresses it, for the receipt.
    """

    name: str
    digest: str
    weight: float
    label: str


class Steps(NamedTuple):
    """What is between a folder and what is declared; names, sorted.

    Attributes:
        install: skills that are not there.
        replace: skills that are there with another content.
        reweigh: skills that are there with another weight only.
        remove: skills that are there and not declared.
        keep: skills that are there as declared.
    """

    install: tuple[str, ...]
    replace: tuple[str, ...]
    reweigh: tuple[str, ...]
    remove: tuple[str, ...]
    keep: tuple[str, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of all skills that something happens to."""
        return tuple(sorted({*self.install, *self.replace, *self.reweigh, *self.remove}))


def check_declared(skills: Sequence[Declared]) -> None:
    """Raise UsageError if what is declared contradicts itself, whatever the folder."""
    for skill in skills:
        check_weight(skill.name, skill.weight)
    for what, values in (("name", [skill.name for skill in skills]), ("content", [skill.digest for skill in skills])):
        if len(set(values)) < len(values):
            raise UsageError(f"Two of the skills {listing(skill.name for skill in skills)} have the same {what}")


def plan_steps(records: Sequence[SkillRecord], skills: Sequence[Declared]) -> Steps:
    """Compare what is installed with what is declared."""
    present = {record.name: record for record in records}
    wanted = {skill.name: skill for skill in skills}
    both = sorted(present.keys() & wanted.keys())
    same = [name for name in both if present[name].digest == wanted[name].digest]
    return Steps(
        install=tuple(sorted(wanted.keys() - present.keys())),
        replace=tuple(name for name in both if name not in same),
        reweigh=tuple(name for name in same if present[name].weight != wanted[name].weight),
        remove=tuple(sorted(present.keys() - wanted.keys())),
        keep=tuple(name for name in same if present[name].weight == wanted[name].weight),
    )


def matched(
    folder: ModelFolder,
    receipt: Receipt | None,
    skills: Sequence[Declared],
    find: Callable[[Declared], Wanted],
    *,
    force: bool,
) -> Change | None:
    """The change that leaves exactly the declared skills; None if there is nothing to do.

    Args:
        folder: the model folder.
        receipt: of what is installed.
        skills: what is declared.
        find: opens a skill whose content the folder does not keep.
        force: as for an install; for the skills that `find` opens.
    """
    records = () if receipt is None else receipt.skills
    steps = plan_steps(records, skills)
    if not steps.changed:
        return None
    kept = {record.digest: record for record in records}
    active, sources = [], {}
    for skill in skills:
        if skill.digest in kept:
            record = replace(kept[skill.digest], name=skill.name, weight=skill.weight, label=skill.label)
            active.append(reopened(folder, record))
        else:
            found = find(skill)
            active.append(Active(found.skill, skill.weight, skill.label, force))
            sources[skill.digest] = found.repository
    return Change(tuple(active), sources, steps.changed, tuple(sorted({*steps.replace, *steps.reweigh})))
