"""Skills on checkpoint folders: install, and remove.

A managed model is a function of its base and of the set of skills with their weights. It is always computed from the
base's untouched files, never from an earlier result, so the order of installs and removals leaves no trace, and with
the last skill everything that is ours goes away. `skillpack.installing.model_folder` says where things are kept,
`skillpack.installing.journal` what a crash or a reader in between can see.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import SkillPackError, UsageError
from skillpack.installing.base_facts import find_facts
from skillpack.installing.building import Build, write_build
from skillpack.installing.changes import added, check_request, removed
from skillpack.installing.checks import check_places, refuse_modified
from skillpack.installing.journal import Journal, Kind, Move, commit, new_staging, receipt_digest, recover, tidy
from skillpack.installing.kept_skills import keep_skill
from skillpack.installing.lock import locked
from skillpack.installing.matching import check_declared, matched
from skillpack.installing.model_folder import find_folder, open_base, refuse_links
from skillpack.installing.os_errors import check_space, explained
from skillpack.installing.planning import make_receipt, plan_build
from skillpack.progress import Stage, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from skillpack.installing.base_facts import Facts
    from skillpack.installing.changes import Change, Wanted
    from skillpack.installing.matching import Declared
    from skillpack.installing.model_folder import Base, ModelFolder
    from skillpack.installing.receipt import Receipt, SkillRecord
    from skillpack.progress import Progress


@dataclass(frozen=True)
class InstallReport:
    """What an install or a removal did, or would do.

    Attributes:
        folder: the model folder.
        skills: what is installed now, sorted by digest.
        changed: names of the skills that were put on or taken off.
        replaced: names of skills that were there with another version or weight.
        written: relative paths of the files that were written.
        restored: relative paths of the base's files that are back in their place.
        nbytes: bytes of the written files.
        dry_run: nothing was changed.
    """

    folder: Path
    skills: tuple[SkillRecord, ...]
    changed: tuple[str, ...]
    replaced: tuple[str, ...]
    written: tuple[str, ...]
    restored: tuple[str, ...]
    nbytes: int
    dry_run: bool


def install(
    skills: Sequence[Wanted],
    model_dir: str | Path,
    *,
    output: str | Path | None = None,
    force: bool = False,
    hard_links: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> InstallReport:
    """Put skills on a model, in place or as a new folder.

    A skill of a name that is installed is replaced, also if only its weight differs.

    Args:
        skills: what to install.
        model_dir: the model folder; with `output` any checkpoint, also a Hub id or a folder in the Hub's cache.
        output: a folder to make, which must not exist or be empty. It is a managed folder like any other: it holds
            the originals and the skills, and skills are removed from it without `model_dir`.
        force: install a skill also where values of base tensors are not those it was packed from; recorded.
        hard_links: let weight files that do not change share their bytes with `model_dir`'s, so that an edit of one
            is an edit of both; only with `output`.
        dry_run: check and compute everything, change nothing.
        progress: told about bytes checked and written.

    Raises:
        UsageError: the request makes no sense.
        WrongBaseError: a skill belongs to another base.
        ConflictError: skills do not go together, or a part of one cannot be scaled by its weight.
        ModifiedFolderError: somebody changed files of the managed model.
        BusyFolderError: another command works on the folder.
        NoSpaceError: the disk is too small or full.
        ReadOnlyError: the folder may not be written.
        SkillPackError: the skills are installed already, or the folder is not one to work in.
    """
    check_request(skills)
    if output is not None:
        from skillpack.installing.new_folder import install_output

        return install_output(
            skills, model_dir, output, force=force, hard_links=hard_links, dry_run=dry_run, progress=progress
        )
    if hard_links:
        raise UsageError("Hard links are made only for a new folder", hint="Add -o OUT.")
    with _working(model_dir, dry_run=dry_run) as folder:
        receipt = folder.receipt()
        refuse_modified(folder, receipt)
        change = added(folder, receipt, skills, force=force)
        return _apply(folder, receipt, change, dry_run=dry_run, progress=progress)


def remove(
    skills: Sequence[str] | str | None,
    model_dir: str | Path,
    *,
    dry_run: bool = False,
    progress: Progress = silent,
) -> InstallReport:
    """Take skills off a model; without any left, the folder is as it was before the first install.

    Args:
        skills: one or several names or digests (also the first digits, ``sha256:0123abcd``); None for all.
        model_dir: the managed model folder.
        dry_run: check and compute everything, change nothing.
        progress: told about bytes checked and written.

    Raises:
        NotFoundError: a skill is not installed.
        ModifiedFolderError, BusyFolderError, NoSpaceError, ReadOnlyError: as for `install`.
        CorruptStoreError: the folder's copy of a skill that stays is damaged.
    """
    with _working(model_dir, dry_run=dry_run) as folder:
        receipt = folder.receipt()
        change = removed(folder, receipt, [skills] if isinstance(skills, str) else skills)
        refuse_modified(folder, receipt)
        return _apply(folder, receipt, change, dry_run=dry_run, progress=progress)


def match(
    skills: Sequence[Declared],
    model_dir: str | Path,
    find: Callable[[Declared], Wanted],
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> InstallReport:
    """Make the skills of a model exactly these, in one step.

    Args:
        skills: what shall be installed; nothing brings the base back.
        model_dir: the model folder.
        find: opens a skill whose content the folder does not keep.
        force: as for `install`, for the skills that `find` opens.
        dry_run: check and compute everything, change nothing.
        progress: told about bytes checked and written.

    Raises:
        UsageError: what is declared contradicts itself.
        WrongBaseError, ConflictError, ModifiedFolderError, BusyFolderError, NoSpaceError, ReadOnlyError: as for
            `install`.
        CorruptStoreError: the folder's copy of a skill that stays is damaged.
    """
    check_declared(skills)
    with _working(model_dir, dry_run=dry_run) as folder:
        receipt = folder.receipt()
        refuse_modified(folder, receipt)
        change = matched(folder, receipt, skills, find, force=force)
        if change is None:
            installed = () if receipt is None else receipt.skills
            return InstallReport(folder.root, installed, (), (), (), (), 0, dry_run)
        return _apply(folder, receipt, change, dry_run=dry_run, progress=progress)


@contextlib.contextmanager
def _working(model_dir: str | Path, *, dry_run: bool) -> Iterator[ModelFolder]:
    """The folder, locked, and with nothing left unfinished before or after; untouched for a dry run."""
    folder = find_folder(model_dir)
    with explained(folder.root):
        if dry_run:
            if folder.interrupted():
                raise SkillPackError(
                    f"{folder.root}: another command was interrupted or is still at work",
                    hint=f"skillpack status {model_dir} finishes or undoes what was interrupted.",
                )
            yield folder
            return
        with locked(folder):
            recover(folder)
            try:
                yield folder
            finally:
                tidy(folder)


def _apply(
    folder: ModelFolder, receipt: Receipt | None, change: Change, *, dry_run: bool, progress: Progress
) -> InstallReport:
    base = open_base(folder, None if receipt else open_checkpoint(folder.root), receipt)
    refuse_links(base)
    facts, build = None, Build((), {})
    if change.active:
        facts = find_facts(base, progress)
        build = plan_build(base, facts, change.active)
    check_places(folder, build.paths)
    copies = sum(active.skill.size for active in change.active if active.skill.digest in change.sources)
    check_space(folder.root, build.size + copies)
    moves = _moves(base, build)
    if dry_run:
        write_build(build, base, None, Stage(progress, "checking the result", build.size))
    else:
        _carry_out(_Prepared(base, facts, change, build, moves), progress)
    return InstallReport(
        folder=folder.root,
        skills=change.records(),
        changed=change.changed,
        replaced=change.replaced,
        written=tuple(build.paths),
        restored=tuple(move.path for move in moves if move.after == "base"),
        nbytes=build.size,
        dry_run=dry_run,
    )


class _Prepared(NamedTuple):
    """A change that has passed all checks."""

    base: Base
    facts: Facts | None
    change: Change
    build: Build
    moves: tuple[Move, ...]


def _carry_out(prepared: _Prepared, progress: Progress) -> None:
    base, facts, change, build, moves = prepared
    folder = base.folder
    folder.hide()
    staging = new_staging(folder)
    for digest, repository in change.sources.items():
        keep_skill(folder, repository, digest)
    written = write_build(build, base, staging / "files", Stage(progress, "writing the model", build.size))
    receipt = None if facts is None else make_receipt(base, facts, change, written)
    made = () if receipt is None else receipt.folders
    leave = () if base.receipt is None else tuple(path for path in base.receipt.folders if path not in made)
    journal = Journal(staging.name, moves, leave, receipt is not None, receipt_digest(base.receipt))
    commit(folder, journal, None if receipt is None else receipt.dump())


def _moves(base: Base, build: Build) -> tuple[Move, ...]:
    written_before = {} if base.receipt is None else base.receipt.written
    originals = {} if base.receipt is None else base.receipt.originals
    indexed = base.indexes.keys()
    entries = {*base.indexes.values(), *(file.path for file in base.weights if file.place not in indexed)}
    moves = []
    for path in sorted({*build.paths, *written_before}):
        there: Kind = "base" if os.path.lexists(base.folder.root / path) else "none"
        before: Kind = "ours" if path in written_before else there
        after: Kind = "ours" if path in build.paths else "base" if path in originals else "none"
        moves.append(Move(path, before, after, path in entries))
    return tuple(moves)
