"""Installing into a new folder.

The new folder is a managed folder like any other: the base's files that the skills replace lie in its own
`model_folder.KEPT`, so that skills can be removed from it when the source is long gone. Files are reflinked where the
file system can, else copied; hard links are made only on request and only for weights. It is built beside its place
under a temporary name, complete and synced before it gets the name that was asked for.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import UsageError
from skillpack.installing.base_facts import find_facts
from skillpack.installing.building import Build, write_build
from skillpack.installing.changes import added
from skillpack.installing.checks import refuse_modified
from skillpack.installing.cloning import clone, reflink
from skillpack.installing.in_place import InstallReport
from skillpack.installing.journal import recover, tidy
from skillpack.installing.kept_skills import keep_skill
from skillpack.installing.lock import locked
from skillpack.installing.model_folder import ModelFolder, open_base
from skillpack.installing.os_errors import check_space, explained
from skillpack.installing.planning import make_receipt, plan_build
from skillpack.progress import Stage
from skillpack_store import Repository, disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.installing.base_facts import Facts
    from skillpack.installing.changes import Change, Wanted
    from skillpack.installing.model_folder import Base
    from skillpack.installing.receipt import FileRecord
    from skillpack.progress import Progress

_OTHERS = {".git", ".cache", ".skillpack"}
"""Folders in a model folder that do not belong to the model."""


class _Order(NamedTuple):
    base: Base
    facts: Facts
    change: Change
    build: Build
    copies: dict[str, Path]


def install_output(
    skills: Sequence[Wanted],
    source: str | Path,
    output: str | Path,
    *,
    force: bool,
    hard_links: bool,
    dry_run: bool,
    progress: Progress,
) -> InstallReport:
    """Install on a copy of `source`; see `skillpack.installing.install`.

    Skills that are installed on `source` are on the copy as well.
    """
    target = Path(output).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{output} exists and is not an empty folder", hint="Choose another name for the new folder.")
    with explained(target.parent), _source(source) as base:
        if not base.lone and target.resolve().is_relative_to(base.folder.root.resolve()):
            raise UsageError(f"{output} is within {source}", hint="Choose a place outside of it.")
        refuse_modified(base.folder, base.receipt)
        change = added(base.folder, base.receipt, skills, force=force)
        facts = find_facts(base, progress)
        order = _Order(base, facts, change, plan_build(base, facts, change.active), _files(base))
        if dry_run:
            _check_space(target.parent, order, shared=hard_links)
            write_build(order.build, base, None, Stage(progress, "checking the result", order.build.size))
        else:
            _build_beside(target, order, hard_links=hard_links, progress=progress)
    return InstallReport(
        folder=target,
        skills=change.records(),
        changed=change.changed,
        replaced=change.replaced,
        written=tuple(order.build.paths),
        restored=(),
        nbytes=order.build.size,
        dry_run=dry_run,
    )


def write_plain(
    skills: Sequence[Wanted], source: str | Path, room: Path, *, force: bool, progress: Progress
) -> tuple[list[str], int]:
    """Write a model with skills into an empty folder, with nothing in it that could take them off again.

    Returns:
        Relative paths of the files that differ from the base's, and the bytes of all files.

    Raises:
        WrongBaseError, ConflictError, DamagedSkillError, ModifiedFolderError: see `skillpack.installing.install`.
    """
    with _source(source) as base:
        refuse_modified(base.folder, base.receipt)
        change = added(base.folder, base.receipt, skills, force=force)
        build = plan_build(base, find_facts(base, progress), change.active)
        copies = {path: file for path, file in _files(base).items() if path not in build.paths}
        check_space(room, build.size + sum(file.stat().st_size for file in copies.values()))
        stage = Stage(progress, "copying the base", sum(file.stat().st_size for file in copies.values()))
        for path, file in copies.items():
            disk.make_directory((room / path).parent)
            clone(file, room / path, link=False, advance=stage.advance)
        write_build(build, base, room, Stage(progress, "writing the model", build.size))
        _sync_all(room)
        return build.paths, build.size + sum((room / path).stat().st_size for path in copies)


@contextlib.contextmanager
def _source(source: str | Path) -> Iterator[Base]:
    """The base of the source; a managed folder is locked meanwhile, so that no file moves away."""
    path = Path(source).expanduser()
    folder = ModelFolder(path.resolve())
    with contextlib.ExitStack() as held:
        if folder.state.is_dir():
            if folder.interrupted() or os.access(folder.state, os.W_OK):
                held.enter_context(locked(folder))
                held.callback(tidy, folder)
                recover(folder)
            receipt = folder.receipt()
            if receipt is not None:
                yield open_base(folder, None, receipt)
                return
        checkpoint = open_checkpoint(source)
        yield open_base(ModelFolder(checkpoint.folder or path.parent), checkpoint, None)


def _files(base: Base) -> dict[str, Path]:
    """Relative path -> file, of everything in the base."""
    if base.lone:
        return {weights.path: weights.file for weights in base.weights}
    files = {}
    for folder, names, found in os.walk(base.folder.root):
        if Path(folder) == base.folder.root:
            names[:] = [name for name in names if name not in _OTHERS]
        for name in found:
            path = (Path(folder) / name).relative_to(base.folder.root).as_posix()
            file = base.file(path)
            if file is not None:
                files[path] = file
    if base.receipt is not None:
        files.update({path: base.folder.kept / path for path in base.receipt.originals})
    return dict(sorted(files.items()))


def _build_beside(target: Path, order: _Order, *, hard_links: bool, progress: Progress) -> None:
    # Always the same name, so that what a killed command left is found and cleared by the next one.
    folder = ModelFolder(target.with_name(f".{target.name}.skillpack-tmp"))
    disk.make_directory(target.parent)
    with locked(folder):
        _clear(folder)
        try:
            folder.hide()
            _fill(folder, order, hard_links=hard_links, progress=progress)
            disk.unlink(folder.state / "folder.lock")
            _sync_all(folder.root)
            disk.rename(folder.root, target)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.remove_tree(folder.root)
            raise
        disk.sync_directory(target.parent)


def _fill(folder: ModelFolder, order: _Order, *, hard_links: bool, progress: Progress) -> None:
    base, facts, change, build, copies = order
    shared = hard_links or _can_share(base, folder.root)
    _check_space(folder.root, order, shared=shared)
    for active in change.active:
        keep_skill(
            folder, change.sources.get(active.skill.digest) or Repository.open(base.folder.skills), active.skill.digest
        )
    stage = Stage(progress, "copying the base", sum(file.stat().st_size for file in copies.values()))
    weights = set(base.weight_paths())
    times = {}
    for path, file in copies.items():
        copy = (folder.kept if path in build.paths else folder.root) / path
        disk.make_directory(copy.parent)
        clone(file, copy, link=hard_links and path in weights, advance=stage.advance)
        times[path] = copy.stat().st_mtime_ns
    written = write_build(build, base, folder.root, Stage(progress, "writing the model", build.size))
    receipt = make_receipt(base, facts, change, written)
    receipt = replace(receipt, weights=_at(receipt.weights, times), originals=_at(receipt.originals, times))
    disk.write_new(folder.receipt_path, [receipt.dump()])


def _check_space(place: Path, order: _Order, *, shared: bool) -> None:
    new = [active.skill.size for active in order.change.active]
    copied = 0 if shared else sum(file.stat().st_size for file in order.copies.values())
    check_space(place, order.build.size + sum(new) + copied)


def _can_share(base: Base, root: Path) -> bool:
    """Whether a file of the base can be reflinked to a place below `root`; found out by trying with a small one."""
    probe = root / "probe"
    smallest = min(_files(base).values(), key=lambda file: file.stat().st_size)
    if not reflink(smallest, probe):
        return False
    disk.unlink(probe)
    return True


def _at(records: Mapping[str, FileRecord], times: Mapping[str, int]) -> dict[str, FileRecord]:
    """The records with the modification times of the copies."""
    return {path: replace(record, mtime_ns=times.get(path, record.mtime_ns)) for path, record in records.items()}


def _clear(folder: ModelFolder) -> None:
    """Remove what a killed command left, but for the lock that is held now."""
    for path in sorted(folder.root.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                disk.rmdir(path)
        elif path != folder.state / "folder.lock":
            disk.unlink(path)


def _sync_all(root: Path) -> None:
    for path in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        disk.sync_directory(path)
    disk.sync_directory(root)
