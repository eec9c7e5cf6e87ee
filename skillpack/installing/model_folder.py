"""A model folder as an install sees it: the files of the base, wherever they are now, and the corner that is ours.

Everything that is ours lies in ``MODEL_DIR/.skillpack/.cache/huggingface/``. The odd path keeps it at home:
`huggingface_hub` never uploads what is below a folder ``.cache/huggingface`` (its `DEFAULT_IGNORE_PATTERNS`, for
``hf upload`` and ``upload_folder``) and refuses to commit anything below a folder ``.cache``, so that the originals,
which are as large as the model, cannot be pushed by accident. A ``.gitignore`` in it does the same for git.

    receipt.json    what is installed (`skillpack.installing.receipt`)
    base/           original files that an install replaced, under their own paths
    skills/         the installed skills, an OCI image layout, so that one of them can be removed without a store
    journal.json    only while files are moved (`skillpack.installing.journal`)
    staging-*/      files that are being prepared
    folder.lock     only while a command works on the folder (`skillpack.installing.lock`)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from skillpack.checkpoint import StoredCheckpoint, TensorInfo
from skillpack.errors import CheckpointError, ConflictError, DamagedCheckpointError, SkillPackError, listing
from skillpack.installing.receipt import LIMIT, Receipt
from skillpack.safetensors_file import Header, read_header
from skillpack_store import disk
from skillpack_store.reading import read_small

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skillpack.checkpoint import Checkpoint

STATE: Final = ".skillpack/.cache/huggingface"
KEPT: Final = f"{STATE}/base"
_INDEX: Final = ".safetensors.index.json"


class ModelFolder:
    """Paths within one model folder.

    Attributes:
        root: the folder, resolved.
        state: our corner of it.
        kept: where originals are put aside.
        skills: where installed skills are kept.
        receipt_path: the receipt.
        journal_path: the journal.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / STATE
        self.kept = root / KEPT
        self.skills = self.state / "skills"
        self.receipt_path = self.state / "receipt.json"
        self.journal_path = self.state / "journal.json"

    def receipt(self) -> Receipt | None:
        """What is installed; None for a folder that is not managed.

        Raises:
            DamagedCheckpointError: the receipt makes no sense.
        """
        try:
            data = read_small(self.receipt_path, LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Receipt.load(data, self.receipt_path)

    def refuse_links(self) -> None:
        """Refuse a corner that leads elsewhere, as a folder that a stranger made may have it.

        Raises:
            SkillPackError: one of our folders, or the receipt or the journal, is a symbolic link.
        """
        own = [*self.state_folders(), self.kept, self.skills, self.receipt_path, self.journal_path]
        for path in (*own, *self.staging_folders()):
            if path.is_symlink():
                raise SkillPackError(
                    f"{path} is a link to somewhere else; what belongs to skills stays within the model folder",
                    hint="Look at where it leads, and remove it.",
                )

    def refuse_linked_parents(self, paths: Iterable[str]) -> None:
        """Refuse to write through folders that are symbolic links.

        Args:
            paths: of files, relative to the model folder.

        Raises:
            ConflictError: a folder on the way to one is a link.
        """
        for root in (self.root, self.kept, *(staging / "files" for staging in self.staging_folders())):
            for path in paths:
                parent = PurePosixPath(path).parent.as_posix()
                if parent != "." and _is_linked(root, parent):
                    raise ConflictError(
                        f"{root / parent} is a link to somewhere else, and nothing is written through it",
                        hint="Put a plain folder in its place.",
                    )

    def hide(self) -> None:
        """Hide our corner from git."""
        if not (self.state / ".gitignore").exists():
            disk.replace(self.state / ".gitignore", [b"*\n"])

    def interrupted(self) -> bool:
        """Whether a command was stopped in the middle of its work here, or is at work now."""
        traces = [self.journal_path, self.state / "folder.lock", *self.staging_folders(), *self.temporary_files()]
        if any(path.exists() for path in traces):
            return True
        innermost = next((path for path in self.state_folders() if path.is_dir()), None)
        return (
            innermost is not None and not self.managed() and (innermost == self.state or not any(innermost.iterdir()))
        )

    def state_folders(self) -> list[Path]:
        """Our corner and the folders around it that are ours as well, the innermost first."""
        return [self.state, self.state.parent, self.state.parent.parent]

    def managed(self) -> bool:
        """Whether there is a receipt."""
        return self.receipt_path.exists()

    def staging_folders(self) -> list[Path]:
        """Folders in which files were or are being prepared."""
        return sorted(self.state.glob("staging-*"))

    def temporary_files(self) -> list[Path]:
        """Files that a killed command was about to give their names."""
        return sorted(self.state.glob(".*.tmp"))


@dataclass(frozen=True)
class WeightFile:
    """One safetensors file of the base.

    Attributes:
        path: relative to the model folder.
        file: where it is now.
        place: the nested folder that it belongs to, ``2_Dense``; empty for the model folder itself.
        header: its header.
    """

    path: str
    file: Path
    place: str
    header: Header

    def full_name(self, own_name: str) -> str:
        """The name of one of its tensors within the whole model."""
        return f"{self.place}/{own_name}" if self.place else own_name


@dataclass(frozen=True)
class Base:
    """The base of a model folder, untouched by what is installed.

    Attributes:
        folder: the model folder.
        checkpoint: its tensors.
        weights: its weight files, sorted by path.
        indexes: place of sharded weights -> relative path of the index.
        receipt: what is installed on it.
        lone: the source is one file rather than a folder.
    """

    folder: ModelFolder
    checkpoint: Checkpoint
    weights: tuple[WeightFile, ...]
    indexes: Mapping[str, str]
    receipt: Receipt | None
    lone: bool = False

    def file(self, path: str) -> Path | None:
        """Where a file of the base is now; None if the base has no such file."""
        if self.receipt is not None and path in self.receipt.originals:
            return self.folder.kept / path
        if self.receipt is not None and path in self.receipt.written:
            return None
        if self.lone and path not in self.weight_paths():
            return None
        found = self.folder.root / path
        return found if found.is_file() else None

    def read(self, path: str) -> bytes | None:
        """Content of a file of the base; None if the base has no such file."""
        found = self.file(path)
        return None if found is None else found.read_bytes()

    def weight_paths(self) -> list[str]:
        """Relative paths of weight files and indexes."""
        return sorted([*(weights.path for weights in self.weights), *self.indexes.values()])


def find_folder(path: str | Path, *, in_place: bool = True) -> ModelFolder:
    """An existing model folder.

    Args:
        path: as the user gave it.
        in_place: files in it are to be changed, which a folder of the Hugging Face cache does not allow.

    Raises:
        CheckpointError: it is not there.
        SkillPackError: it is in the Hugging Face cache.
    """
    given = Path(path).expanduser()
    if given.is_file():
        raise CheckpointError(f"{path} is a file, not a model folder", hint="Give the folder, or make one with -o OUT.")
    if not given.is_dir():
        raise CheckpointError(
            f"{path}: no such folder", hint="Give a model folder; a model of the Hub can be installed on with -o OUT."
        )
    root = given.resolve()
    parts = root.parts
    if in_place and any(
        re.match(r"(models|datasets|spaces)--", part) and "snapshots" in parts[at:] for at, part in enumerate(parts)
    ):
        raise SkillPackError(
            f"{path} is in the Hugging Face cache, whose files other programs share",
            hint="Make a folder of its own with -o OUT.",
        )
    return ModelFolder(root)


def open_base(folder: ModelFolder, checkpoint: Checkpoint | None, receipt: Receipt | None) -> Base:
    """The base of a folder: from its receipt if it is managed, else all that is there.

    Args:
        folder: the model folder.
        checkpoint: the folder as `open_checkpoint` reads it; needed where there is no receipt.
        receipt: what is installed.

    Raises:
        DamagedCheckpointError: a file of the base is missing or damaged.
    """
    if receipt is None:
        if checkpoint is None:
            raise ValueError("a folder without a receipt has to be opened as a checkpoint")
        files = {info.file for info in checkpoint.tensors.values()}
        weights = [_weight_file(file.relative_to(folder.root).as_posix(), file) for file in files]
    else:
        paths = [path for path in receipt.weights if not path.endswith(_INDEX)]
        weights = [_weight_file(path, _present(folder, receipt, path)) for path in paths]
        checkpoint = _checkpoint(folder, weights)
    weights.sort(key=lambda weight_file: weight_file.path)
    lone = checkpoint.folder is None
    indexes = _find_indexes(folder, () if lone else weights) if receipt is None else _listed_indexes(receipt)
    return Base(folder, checkpoint, tuple(weights), indexes, receipt, lone)


def refuse_links(base: Base) -> None:
    """Refuse to work in place where files are symbolic links, whose targets others may share.

    Raises:
        SkillPackError: some are.
    """
    paths = [*base.weight_paths(), *base.checkpoint.companions]
    links = [path for path in paths if _is_linked(base.folder.root, path)]
    if links:
        raise SkillPackError(
            f"{base.folder.root}: {listing(links)} {'are links' if len(links) > 1 else 'is a link'} to files elsewhere",
            hint="Make a folder of its own with -o OUT.",
        )


def _is_linked(root: Path, path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any((root / Path(*parts[: count + 1])).is_symlink() for count in range(len(parts)))


def _weight_file(path: str, file: Path) -> WeightFile:
    place = PurePosixPath(path).parent.as_posix()
    return WeightFile(path, file, "" if place == "." else place, read_header(file))


def _present(folder: ModelFolder, receipt: Receipt, path: str) -> Path:
    file = (folder.kept if path in receipt.originals else folder.root) / path
    if not file.is_file():
        raise DamagedCheckpointError(
            f"{file} is missing, which belongs to the base",
            hint="Copy the file there from the base, or make the model anew from it.",
        )
    return file


def _checkpoint(folder: ModelFolder, weights: Iterable[WeightFile]) -> StoredCheckpoint:
    places = {
        weight_file.full_name(name): (weight_file.file, weight_file.header, name)
        for weight_file in weights
        for name in weight_file.header.entries
    }
    tensors = {}
    for name in sorted(places):
        file, header, own_name = places[name]
        entry = header.entries[own_name]
        tensors[name] = TensorInfo(name, entry.dtype, entry.shape, file, entry.end - entry.start)
    return StoredCheckpoint(str(folder.root), folder.root, tensors, {}, (), places)


def _find_indexes(folder: ModelFolder, weights: Iterable[WeightFile]) -> dict[str, str]:
    """The index that leads to the weights of each place, chosen as `open_checkpoint` does."""
    indexes = {}
    for place in {weight_file.place for weight_file in weights}:
        found = sorted((folder.root / place).glob(f"*{_INDEX}"))
        preferred = folder.root / place / f"model{_INDEX}"
        if found and not (folder.root / place / "model.safetensors").is_file():
            chosen = preferred if preferred in found else found[0]
            indexes[place] = chosen.relative_to(folder.root).as_posix()
    return indexes


def _listed_indexes(receipt: Receipt) -> dict[str, str]:
    paths = [PurePosixPath(path) for path in receipt.weights if path.endswith(_INDEX)]
    return {"" if path.parent == PurePosixPath() else path.parent.as_posix(): path.as_posix() for path in paths}
