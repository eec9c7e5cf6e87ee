"""The base that a skill comes from and the one that it goes to, and how names change between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skillpack.checkpoint import open_checkpoint
from skillpack.delta import Renaming, find_renaming
from skillpack.errors import CheckpointError, UsageError, WrongBaseError, listing
from skillpack.fingerprint import fingerprint, tensor_digests
from skillpack.installing.claims import Active, check_base
from skillpack.installing.model_folder import ModelFolder
from skillpack.progress import Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from skillpack.checkpoint import Checkpoint
    from skillpack.manifest import Manifest
    from skillpack.progress import Progress
    from skillpack.skill import Skill


class Naming(NamedTuple):
    """How names change with the base.

    Attributes:
        bases: takes names of the old base to names of the new one.
        entries: takes names that an install wrote to those that it will write.
        installed: takes names of the new base to names that an install will write.
    """

    bases: Renaming
    entries: Renaming
    installed: Renaming


@dataclass(frozen=True, eq=False)
class Bases:
    """Both bases.

    Attributes:
        new: the base that the skill goes to.
        digests: tensor -> digest, of the new one.
        old: the base that the skill was packed from; None where it is not known.
        naming: how names change.
    """

    new: Checkpoint
    digests: Mapping[str, str]
    old: Checkpoint | None
    naming: Naming

    @property
    def fingerprint(self) -> str:
        """Of the new base."""
        return fingerprint(self.digests)


def open_bases(skill: Skill, onto: str | Path, base: str | Path | None, progress: Progress) -> Bases:
    """Open both bases, and check that the old one is the skill's.

    Args:
        skill: that is to move.
        onto: the new base.
        base: the old one, if it is known.
        progress: told about the bytes that are hashed.

    Raises:
        CheckpointError: a base cannot be read.
        UsageError: skills are installed on the new base.
        WrongBaseError: the old base is not the skill's, or the new one names its tensors in a way of its own.
    """
    new = _open(onto)
    old = None if base is None else _open(base)
    if old is not None:
        needed = sorted(_references(skill.manifest) & old.tensors.keys())
        stage = Stage(progress, "checking the old base", sum(old.tensors[name].nbytes for name in needed))
        check_base(Active(skill), old, tensor_digests(old, needed, progress=stage.advance))
    naming = find_naming(skill.manifest, _references(skill.manifest) if old is None else old.tensors, new.tensors)
    stage = Stage(progress, "checking the new base", sum(info.nbytes for info in new.tensors.values()))
    return Bases(new, tensor_digests(new, progress=stage.advance), old, naming)


def find_naming(manifest: Manifest, old: Collection[str], new: Collection[str]) -> Naming:
    """How names change from one base to the other.

    A skill that keeps its base's names takes on those of the new base. One that has names of its own, since the
    fine-tune is of another class than the base, keeps them.

    Args:
        manifest: of the skill.
        old: names of the old base's tensors, or of those among them that are known.
        new: names of the new base's tensors.

    Raises:
        WrongBaseError: the bases have hardly a name in common, or one rule does not do.
    """
    own = manifest.renaming
    bases = _rule(old, new)
    if bases == Renaming():
        return Naming(bases, Renaming(), own)
    if own == Renaming():
        added = [entry.name for entry in manifest.tensors if entry.reference is None and entry.same_as is None]
        if added:
            raise WrongBaseError(
                f"The new base names its tensors differently ({_shown(bases)}), and what {listing(added)} would be "
                "called in it cannot be known, since only the fine-tune has it",
                tensors=added,
                hint="Save the new base with the names of the old one.",
            )
        return Naming(bases, bases, own)
    wanted = {bases.apply(name): own.apply(name) for name in old}
    installed = _rule(wanted, set(wanted.values()))
    wrong = sorted(name for name, target in wanted.items() if installed.apply(name) != target)
    if wrong or len({installed.apply(name) for name in new}) < len(new):
        raise WrongBaseError(
            f"The new base names its tensors differently ({_shown(bases)}), and no one prefix takes them to the names "
            f"of the fine-tune: {listing(wrong or sorted(new))}",
            tensors=wrong,
            hint="Save the new base with the names of the old one.",
        )
    return Naming(bases, Renaming(), installed)


def _rule(old: Collection[str], new: Collection[str]) -> Renaming:
    if not old:
        return Renaming()
    try:
        return find_renaming(dict.fromkeys(old), dict.fromkeys(new))
    except CheckpointError as error:
        raise WrongBaseError(
            f"The names of the new base's tensors do not fit the skill: {error.message}",
            tensors=sorted(old),
            hint="A skill moves to a newer version of its base, not to another architecture.",
        ) from error


def _open(source: str | Path) -> Checkpoint:
    checkpoint = open_checkpoint(source)
    receipt = None if checkpoint.folder is None else ModelFolder(checkpoint.folder).receipt()
    if receipt is not None and receipt.skills:
        names = listing(skill.name for skill in receipt.skills)
        raise UsageError(
            f"{source} is no base: skills are installed on it ({names})",
            hint=f"Remove them first, or give the model that they were installed on: skillpack remove --all {source}",
        )
    return checkpoint


def _references(manifest: Manifest) -> set[str]:
    """Names of the base's tensors that a skill builds on."""
    names = {entry.reference for entry in manifest.tensors if entry.reference is not None}
    return names | {name for name, _ in manifest.gone}


def _shown(rule: Renaming) -> str:
    return f"{rule.strip or 'nothing'} in front becomes {rule.add or 'nothing'}"
