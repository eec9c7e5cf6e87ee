"""From a composed skill to the library: its blobs, its card, and the commit."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Final

from skillpack.composing.report import ComposeReport
from skillpack.library import commit_skills
from skillpack.model_card import CARD_TYPE, UNKNOWN_LICENSE, CardFacts, card_files, card_license, read_card, write_card
from skillpack.packing.payload import put_skill
from skillpack.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.making import Made
    from skillpack.composing.recipe import Recipe
    from skillpack.installing.claims import Active
    from skillpack.manifest import Manifest
    from skillpack.packing.packer import Packed
    from skillpack_store import Descriptor, Repository

_BASE_MODEL: Final = re.compile(r"^base_model:\s*(\".*\")\s*$", re.MULTILINE)


def report_of(name: str, recipe: Recipe, found: Made) -> ComposeReport:
    """What is known of a composed skill before it is stored."""
    return ComposeReport(
        name=name,
        version=None,
        digest="",
        size=found.packed.size,
        recipe=recipe,
        manifest=found.packed.manifest,
        summed=found.summed,
        recoded=found.recoded,
        resumed=found.resumed,
    )


def put_composed(repository: Repository, skills: Sequence[Active], report: ComposeReport, packed: Packed) -> Descriptor:
    """Put a composed skill with its card into a store that is being written to.

    Args:
        repository: the store.
        skills: what it was composed of.
        report: what is known of it.
        packed: manifest and streams.
    """
    skill = put_skill(repository, report.name, packed.manifest, packed.payload)
    repository.attach(skill, CARD_TYPE, card_files(_card(repository, skills, report)))
    return skill


def _card(repository: Repository, skills: Sequence[Active], report: ComposeReport) -> str:
    """A model card that says of what and how it was made; base and license are those that the parts' cards agree on."""
    cards = [read_card(repository, active.skill.digest) for active in skills]
    licenses = {card_license(card) for card in cards}
    bases = {found.group(1) for card in cards for found in [_BASE_MODEL.search(card)] if found}
    recipe = report.recipe
    options = ", ".join(f"{key}={value}" for key, value in recipe.options.items())
    notes = [f"composed by {recipe.method}{f' ({options})' if options else ''}"]
    if recipe.task is not None:
        notes.append(f"gives {recipe.task} back")
    notes += [f"from `{part.name}`, `{part.digest}`, with weight {part.weight:g}" for part in recipe.parts]
    facts = CardFacts(
        report.name,
        json.loads(bases.pop()) if len(bases) == 1 else "unknown",
        licenses.pop() if len(licenses) == 1 else UNKNOWN_LICENSE,
        report.size,
        _written_bytes(report.manifest),
        tuple(notes),
    )
    return write_card(facts, report.manifest)


def _written_bytes(manifest: Manifest) -> int:
    """Bytes of the tensors that an install writes."""
    return sum(math.prod(entry.shape) * DTYPE_BYTES[entry.dtype] for entry in manifest.tensors)


def commit_composed(
    repository: Repository, skills: dict[str, Descriptor], *, branch: str, author: str | None, message: str
) -> None:
    """Commit skills by their names, unless the head of the branch has these very ones."""
    head = repository.head(branch)
    known = {} if head is None else {name: skill.digest for name, skill in head.skills.items()}
    if any(known.get(name) != skill.digest for name, skill in skills.items()):
        commit_skills(repository, skills, branch=branch, author=author, message=message)
