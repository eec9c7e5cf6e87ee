"""Which skills are to be installed in the end: requests, and what is installed already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skillpack.errors import NotFoundError, SkillPackError, UsageError, listing
from skillpack.installing.claims import Active
from skillpack.installing.kept_skills import open_kept
from skillpack.installing.receipt import Receipt, SkillRecord
from skillpack.summing import check_weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.installing.model_folder import ModelFolder
    from skillpack.skill import Skill
    from skillpack_store import Repository


class Wanted(NamedTuple):
    """A skill to install.

    Attributes:
        skill: opened from `repository`.
        repository: where its bytes are, of which the model folder keeps a copy.
        weight: factor of its delta; finite and not 0.
        label: the version as the user addressed it, for the receipt.
    """

    skill: Skill
    repository: Repository
    weight: float = 1.0
    label: str = ""


@dataclass(frozen=True)
class Change:
    """From one set of installed skills to another.

    Attributes:
        active: the skills that are to be installed in the end.
        sources: digest -> where the bytes of a skill are that the folder does not keep yet.
        changed: see `InstallReport`.
        replaced: see `InstallReport`.
    """

    active: tuple[Active, ...]
    sources: Mapping[str, Repository]
    changed: tuple[str, ...]
    replaced: tuple[str, ...] = ()

    def records(self) -> tuple[SkillRecord, ...]:
        """As in a receipt."""
        records = [
            SkillRecord(skill.name, label, skill.digest, weight, forced) for skill, weight, label, forced in self.active
        ]
        return tuple(sorted(records, key=lambda record: record.digest))


def check_request(skills: Sequence[Wanted]) -> None:
    """Raise UsageError if the request contradicts itself, whatever the folder."""
    if not skills:
        raise UsageError("No skill was given")
    for wanted in skills:
        check_weight(wanted.skill.name, wanted.weight)
    for what, values in (
        ("name", [wanted.skill.name for wanted in skills]),
        ("content", [wanted.skill.digest for wanted in skills]),
    ):
        if len(set(values)) < len(values):
            names = listing(wanted.skill.name for wanted in skills)
            raise UsageError(f"Two of the skills {names} have the same {what}", hint="Give each skill once.")


def added(folder: ModelFolder, receipt: Receipt | None, skills: Sequence[Wanted], *, force: bool) -> Change:
    """The installed skills and those to install, which replace others of their names.

    Raises:
        SkillPackError: all are installed already, or one is under another name.
    """
    present = {record.name: record for record in (() if receipt is None else receipt.skills)}
    new = [wanted for wanted in skills if not _is_there(wanted, present.get(wanted.skill.name))]
    if not new:
        asked = listing(f"{wanted.skill.name} (weight {wanted.weight:g})" for wanted in skills)
        raise SkillPackError(
            f"Already installed on {folder.root}: {asked}", hint="To change a weight, install with another one."
        )
    names = {wanted.skill.name for wanted in new}
    staying = [record for record in present.values() if record.name not in names]
    for wanted in new:
        for record in staying:
            if record.digest == wanted.skill.digest:
                raise SkillPackError(
                    f"{wanted.skill.name} is the skill that is installed as {record.name} already",
                    hint=f"Remove {record.name} first to install it under another name.",
                )
    active = [Active(wanted.skill, wanted.weight, wanted.label, force) for wanted in new]
    return Change(
        active=(*(reopened(folder, record) for record in staying), *active),
        sources={wanted.skill.digest: wanted.repository for wanted in new},
        changed=tuple(sorted(names)),
        replaced=tuple(sorted(names & present.keys())),
    )


def removed(folder: ModelFolder, receipt: Receipt | None, skills: Sequence[str] | None) -> Change:
    """The installed skills without some of them; None for all.

    Raises:
        NotFoundError: a skill is not installed.
    """
    records = () if receipt is None else receipt.skills
    leaving = list(records) if skills is None else [_find(name, records, folder) for name in skills]
    if not leaving:
        raise NotFoundError(f"{folder.root} has no installed skills", hint="There is nothing to remove.")
    active = tuple(reopened(folder, record) for record in records if record not in leaving)
    return Change(active, {}, tuple(sorted({record.name for record in leaving})))


def reopened(folder: ModelFolder, record: SkillRecord) -> Active:
    """An installed skill, from the copy that the folder keeps."""
    return Active(open_kept(folder, record), record.weight, record.label, record.forced)


def _find(name: str, records: Sequence[SkillRecord], folder: ModelFolder) -> SkillRecord:
    by_digest = [record for record in records if len(name) >= 12 and record.digest.startswith(name)]
    found = [record for record in records if record.name == name] or by_digest
    if len(found) == 1:
        return found[0]
    installed = listing(record.name for record in records)
    raise NotFoundError(
        f"Skill {name} is not installed on {folder.root}",
        hint=f"Installed are: {installed}." if records else "No skill is installed there.",
    )


def _is_there(wanted: Wanted, record: SkillRecord | None) -> bool:
    return record is not None and (record.digest, record.weight) == (wanted.skill.digest, wanted.weight)
