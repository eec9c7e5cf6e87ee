"""Exchanging the files of a model folder so that a crash leaves the old model or the new one.

New files are complete and synced in a staging folder before the journal, the commit record, is created. Without a
journal the next command throws the staging folder away; with one it repeats the moves, each of which does nothing once
it is done. An original is put aside by giving it a second name, which can neither lose it nor take another's place
(where a file system has no hard links, it is renamed).

What a reader of the folder can see meanwhile: if one file changes, the old one or the new one. If several do, the files
that lead to the weights (the index of sharded weights, else the one weight file) are taken away first and put in place
last, so that loading the model in between fails because they are missing; it never gets old and new weights at once.
Where only tokenizer and config files change there is no such gate, and each is exchanged by one rename.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, NoReturn, cast

from skillpack.errors import BusyFolderError, DamagedCheckpointError, SkillPackError, listing
from skillpack.installing.kept_skills import prune_skills
from skillpack.installing.receipt import safe_path
from skillpack_store import canonical_json, digest_of, disk, parse_digest, parse_json
from skillpack_store.reading import read_small

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skillpack.installing.model_folder import ModelFolder
    from skillpack.installing.receipt import Receipt

Kind = Literal["base", "ours", "none"]
"""What has a name in the model folder: the base's own file, one that an install wrote, or nothing."""

_FORMAT: Final = 1
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS, errno.EACCES, errno.EXDEV}
_LIMIT: Final = 64 << 20


class Move(NamedTuple):
    """What happens to one name.

    Attributes:
        path: relative to the model folder.
        before: what has the name now.
        after: what shall have it.
        entry: loading the weights begins with this file.
    """

    path: str
    before: Kind
    after: Kind
    entry: bool


@dataclass(frozen=True)
class Journal:
    """The commit record.

    Attributes:
        staging: name of the staging folder; new files lie in it under ``files``, and the new receipt, if any.
        moves: what happens to the files.
        leave: folders to remove if they are empty in the end.
        receipt: whether something is installed afterwards.
        previous: digest of the receipt from which the change was computed; empty if there was none.
    """

    staging: str
    moves: tuple[Move, ...]
    leave: tuple[str, ...]
    receipt: bool
    previous: str

    def dump(self) -> bytes:
        """Canonical JSON."""
        moves = [list(move) for move in self.moves]
        document = {"format": _FORMAT, "staging": self.staging, "moves": moves, "leave": list(self.leave)}
        return canonical_json({**document, "receipt": self.receipt, "previous": self.previous})

    @classmethod
    def load(cls, data: bytes, path: Path) -> Journal:
        """Inverse of `dump`; `path` is for messages.

        Raises:
            DamagedCheckpointError: it is no journal.
        """
        try:
            return cls._parse(parse_json(data, limit=_LIMIT))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedCheckpointError(
                f"{path} is not a journal ({error!r})",
                hint=f"Original files are in {path.parent / 'base'}; move them back by hand.",
            ) from error

    @classmethod
    def _parse(cls, document: Any) -> Journal:
        if document["format"] != _FORMAT or not isinstance(document["receipt"], bool):
            raise ValueError("unknown format")
        moves = tuple(_move(*item) for item in document["moves"])
        leave = tuple(safe_path(folder) for folder in document["leave"])
        previous = document["previous"] and parse_digest(document["previous"])
        return cls(_plain(document["staging"]), moves, leave, document["receipt"], previous)


def new_staging(folder: ModelFolder) -> Path:
    """Make a staging folder; new files go below ``files`` in it."""
    staging = disk.temporary_name(folder.state / "files")
    staging = folder.state / f"staging-{staging.name.split('.')[-2]}"
    disk.make_directory(staging / "files")
    return staging


def commit(folder: ModelFolder, journal: Journal, receipt: bytes | None) -> None:
    """Write the commit record, after which the change will be made whatever happens, and make it.

    Raises:
        BusyFolderError: another command has committed a change to this folder.
        OSError: the record cannot be written, and nothing has changed; or, if there is a journal now, a move failed
            and the next command will go on.
    """
    staging = folder.state / journal.staging
    if receipt is not None:
        disk.write_new(staging / "receipt.json", [receipt])
    for move in journal.moves:
        disk.make_directory((folder.kept / move.path).parent)
    for changed in _folders(staging):
        disk.sync_directory(changed)
    if not _create(folder.journal_path, journal.dump()):
        raise BusyFolderError(f"{folder.root}: another command is changing this folder", hint="Try again.")
    finish(folder)


def finish(folder: ModelFolder) -> None:
    """Make the moves that the journal asks for and that are not done yet, and clean up.

    Raises:
        DamagedCheckpointError: files that the journal needs are gone.
        BusyFolderError: they are gone before anything was moved, and the folder is as it was.
        OSError: a move failed; it can be tried again.
    """
    journal = Journal.load(read_small(folder.journal_path, _LIMIT), folder.journal_path)
    folder.refuse_linked_parents([move.path for move in journal.moves])
    if _is_stale(folder, journal):
        _withdraw(folder, "another command changed the model while this one was preparing")
    moving = _Moving(folder, journal)
    if lost := moving.lost():
        _give_up(folder, lost, begun=moving.begun())
    entries = [move for move in journal.moves if move.entry and len(journal.moves) > 1]
    others = [move for move in journal.moves if move not in entries]
    moving.put_aside(entries + others)
    moving.close(entries)
    moving.settle(others)
    moving.settle(entries)
    _sync_all(folder.kept)
    _settle_receipt(folder, journal)
    for left in sorted(journal.leave, reverse=True):
        _remove_if_empty(folder.root / left)
    installed = folder.receipt()
    prune_skills(folder, [] if installed is None else [skill.digest for skill in installed.skills])
    for staging in folder.staging_folders():
        disk.remove_tree(staging)
    _remove_empty(folder.kept)
    disk.unlink(folder.journal_path)
    disk.sync_directory(folder.state)


def recover(folder: ModelFolder) -> None:
    """Finish or undo what an earlier command left unfinished; the caller holds the folder's lock.

    Raises:
        SkillPackError: originals are there, but no receipt says what to do with them.
    """
    if folder.journal_path.exists():
        finish(folder)
    else:
        _undo(folder)


def tidy(folder: ModelFolder) -> None:
    """Leave the folder as the next command should find it: nothing unfinished; nothing of ours if nothing is installed.

    The caller holds the folder's lock and gives it back afterwards.
    """
    if folder.journal_path.exists():
        return
    _undo(folder)
    if not folder.managed():
        _remove_state(folder)


def _undo(folder: ModelFolder) -> None:
    """Remove what was prepared and not committed."""
    for temporary in folder.temporary_files():
        disk.unlink(temporary)
    receipt = folder.receipt()
    left = [] if receipt else [path for path in folder.kept.rglob("*") if not path.is_dir()]
    if left:
        names = listing(path.relative_to(folder.kept).as_posix() for path in left)
        raise SkillPackError(
            f"{folder.kept} holds original files of the model, but {folder.receipt_path} is missing: {names}",
            hint=f"Restore the receipt, or move the files back to {folder.root} by hand.",
        )
    unfinished = folder.staging_folders()
    if unfinished or receipt is None:
        _remove_empty(folder.kept)
        prune_skills(folder, [skill.digest for skill in receipt.skills] if receipt else [])
    for staging in unfinished:
        disk.remove_tree(staging)


class _Moving:
    def __init__(self, folder: ModelFolder, journal: Journal) -> None:
        self.root = folder.root
        self.kept = folder.kept
        self.staged = folder.state / journal.staging / "files"
        self.closed = folder.state / journal.staging / "closed"
        self.moves = journal.moves

    def lost(self) -> list[str]:
        """Paths that are not as they shall be and cannot be made so."""
        return [move.path for move in self.moves if not self.pending(move) and not self.is_done(move)]

    def begun(self) -> bool:
        """Whether any original has been put aside."""
        return any(move.before == "base" and (self.kept / move.path).exists() for move in self.moves)

    def pending(self, move: Move) -> bool:
        places = {"ours": self.staged, "base": self.kept, "none": self.root}
        return (places[move.after] / move.path).exists()

    def is_done(self, move: Move) -> bool:
        there = (self.root / move.path).is_file()
        kept = move.before != "base" or (self.kept / move.path).exists()
        return there and kept if move.after == "ours" else there == (move.after == "base")

    def put_aside(self, moves: Iterable[Move]) -> None:
        """Keep the originals that will be replaced."""
        for move in moves:
            kept = self.kept / move.path
            if move.before == "base" and self.pending(move) and not kept.exists():
                disk.make_directory(kept.parent)
                _link(self.root / move.path, kept)
        # The second name must be on the disk before the first one goes.
        _sync_all(self.kept)

    def close(self, entries: Iterable[Move]) -> None:
        """Take away the files that lead to the weights."""
        for move in entries:
            path = self.root / move.path
            there = _identity(path)
            # In this order: what was there before the new file was seen waiting is the old one.
            if there is not None and self.pending(move):
                _take_away(path, there, self.closed / move.path)
        self.sync()

    def settle(self, moves: Iterable[Move]) -> None:
        for move in moves:
            path = self.root / move.path
            if not self.pending(move):
                continue
            if move.after == "none":
                disk.unlink(path)
                continue
            disk.make_directory(path.parent)
            _rename((self.staged if move.after == "ours" else self.kept) / move.path, path)
        self.sync()

    def sync(self) -> None:
        for parent in sorted({(self.root / move.path).parent for move in self.moves}):
            if parent.is_dir():
                disk.sync_directory(parent)


def _give_up(folder: ModelFolder, lost: list[str], *, begun: bool) -> NoReturn:
    if begun:
        raise DamagedCheckpointError(
            f"{folder.root}: an interrupted command cannot be finished, because files are gone: {listing(lost)}",
            hint=f"Copy them there from the base, and remove {folder.journal_path}.",
        )
    # Only where locks do not work can somebody have cleared the staging folder before anything was moved.
    _withdraw(folder, "another command took away what this one had prepared")


def _withdraw(folder: ModelFolder, reason: str) -> NoReturn:
    _discard(folder.journal_path)
    disk.sync_directory(folder.state)
    raise BusyFolderError(f"{folder.root}: {reason}; nothing was changed", hint="Try again.")


def receipt_digest(receipt: Receipt | None) -> str:
    """Digest of a receipt's content; empty if there is none."""
    return "" if receipt is None else digest_of(receipt.dump())


def _is_stale(folder: ModelFolder, journal: Journal) -> bool:
    """Whether the model is no longer what the change was computed from, as can happen where locks do not work."""
    found = receipt_digest(folder.receipt())
    staged = folder.state / journal.staging / "receipt.json"
    if found == journal.previous:
        return False
    if not journal.receipt:
        return bool(found)
    # After a crash the new receipt can be in both places.
    return staged.exists() and digest_of(staged.read_bytes()) != found


def _settle_receipt(folder: ModelFolder, journal: Journal) -> None:
    staged = folder.state / journal.staging / "receipt.json"
    if not journal.receipt:
        _discard(folder.receipt_path)
    elif staged.exists():
        _rename(staged, folder.receipt_path)
    disk.sync_directory(folder.state)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from one that takes its place; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _take_away(path: Path, expected: tuple[int, int, int], aside: Path) -> None:
    """Remove a file, but not one that has taken its place meanwhile, as can happen where locks do not work."""
    disk.make_directory(aside.parent)
    with contextlib.suppress(FileNotFoundError):
        disk.rename(path, aside)
        if _identity(aside) != expected:
            _link(aside, path)


def _link(source: Path, target: Path) -> None:
    try:
        disk.link(source, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        disk.rename(source, target)


def _rename(source: Path, target: Path) -> None:
    disk.rename(source, target)
    # Two names of one file, which a crash can leave, are not affected by a rename.
    _discard(source)


def _create(path: Path, content: bytes) -> bool:
    try:
        return disk.write_exclusive(path, [content])
    except OSError as error:
        if error.errno not in _NO_LINKS or path.exists():
            raise
    disk.replace(path, [content])
    return True


def _discard(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)


def _folders(root: Path) -> list[Path]:
    """A folder and all folders in it, the deepest first."""
    return [*sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True), root] if root.is_dir() else []


def _sync_all(root: Path) -> None:
    for path in _folders(root):
        disk.sync_directory(path)


def _remove_empty(root: Path) -> None:
    for path in _folders(root):
        _remove_if_empty(path)


def _remove_if_empty(path: Path) -> None:
    try:
        disk.rmdir(path)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise
        return
    disk.sync_directory(path.parent)


def _remove_state(folder: ModelFolder) -> None:
    """Remove our corner; what somebody else put beside it stays."""
    for name in (".gitignore", "folder.lock"):
        _discard(folder.state / name)
    for path in folder.state_folders():
        _remove_if_empty(path)


def _move(path: Any, before: Any, after: Any, entry: Any) -> Move:
    kinds = {"base", "ours", "none"}
    if before not in kinds or after not in kinds or not isinstance(entry, bool):
        raise ValueError("unknown kind of move")
    return Move(safe_path(path), cast("Kind", before), cast("Kind", after), entry)


def _plain(name: Any) -> str:
    if not isinstance(name, str) or not name.startswith("staging-") or PurePosixPath(name).name != name:
        raise ValueError("not the name of a staging folder")
    return name
