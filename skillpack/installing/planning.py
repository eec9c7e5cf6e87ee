"""From a set of skills to the files to write, and from the written files to the receipt."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from skillpack.installing.building import Build
from skillpack.installing.claims import check_base, common_renaming, find_targets, gone_tensors
from skillpack.installing.companion_files import changed_files
from skillpack.installing.receipt import FileRecord, Receipt
from skillpack.installing.weights import plan_weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skillpack.installing.base_facts import Facts
    from skillpack.installing.changes import Change
    from skillpack.installing.claims import Active
    from skillpack.installing.model_folder import Base


def plan_build(base: Base, facts: Facts, active: Sequence[Active]) -> Build:
    """Check that skills go on a base and with one another, and say which files to write.

    Raises:
        WrongBaseError, ConflictError, DamagedSkillError: see `install`.
    """
    for skill in active:
        check_base(skill, base.checkpoint, facts.tensors)
    targets = find_targets(active, base.checkpoint)
    weights, indexes = plan_weights(base, targets, common_renaming(active), gone_tensors(active))
    return Build(weights, {**indexes, **changed_files(base, active)})


def make_receipt(base: Base, facts: Facts, change: Change, written: Mapping[str, FileRecord]) -> Receipt:
    """The receipt of a finished build."""
    before = {} if base.receipt is None else base.receipt.originals
    originals = {}
    for path in written:
        file = base.file(path)
        if file is not None:
            originals[path] = before.get(path) or facts.weights.get(path) or FileRecord.of(file)
    return Receipt(
        skills=change.records(),
        fingerprint=facts.fingerprint,
        tensors=facts.tensors,
        weights=facts.weights,
        originals=originals,
        written=dict(written),
        folders=tuple(made_folders(base, written)),
        tool=_tool(),
    )


def made_folders(base: Base, written: Iterable[str]) -> list[str]:
    """The folders that hold only what an install writes."""
    known = set() if base.receipt is None else set(base.receipt.folders)
    parents = {parent.as_posix() for path in written for parent in PurePosixPath(path).parents} - {"."}
    return sorted(path for path in parents if path in known or not (base.folder.root / path).exists())


def _tool() -> str:
    from importlib.metadata import version

    return f"skillpack {version('skillpack')}"
