"""The receipt of a managed model: what is installed on which base, and digests that prove every file.

A receipt names no place outside its folder and no time but the modification times of files, which serve only to tell
quickly that a file is untouched; where one differs, the file is hashed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DamagedCheckpointError, SkillPackError
from skillpack_store import canonical_json, parse_digest, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FORMAT: Final = 1
LIMIT: Final = 256 << 20  # bytes
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """What a file was when it was last seen.

    Attributes:
        size: in bytes.
        sha256: digest of the whole file, ``sha256:…``.
        mtime_ns: modification time in nanoseconds.
    """

    size: int
    sha256: str
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, progress: Callable[[int], None] | None = None) -> FileRecord:
        """Hash a file; `progress` is called with the bytes of each piece."""
        status = path.stat()
        return cls(status.st_size, file_digest(path, progress), status.st_mtime_ns)

    def matches(self, path: Path, *, thorough: bool, progress: Callable[[int], None] | None = None) -> bool:
        """Whether `path` is a file (no symbolic link) with this content; hashed if `thorough` or not surely untouched.

        Raises:
            FileNotFoundError: there is nothing.
        """
        status = path.lstat()
        if path.is_symlink() or not path.is_file() or status.st_size != self.size:
            return False
        return (not thorough and status.st_mtime_ns == self.mtime_ns) or file_digest(path, progress) == self.sha256

    def to_json(self) -> dict[str, Any]:
        """As in the receipt."""
        return {"size": self.size, "sha256": self.sha256, "mtime_ns": self.mtime_ns}

    @classmethod
    def from_json(cls, document: Any) -> FileRecord:
        """Inverse of `to_json`."""
        size, time = document["size"], document["mtime_ns"]
        if type(size) is not int or type(time) is not int or size < 0:
            raise TypeError("a file has a size or a time that is no whole number")
        return cls(size, parse_digest(document["sha256"]), time)


@dataclass(frozen=True)
class SkillRecord:
    """One installed skill.

    Attributes:
        name: under which it was installed.
        label: the version as the user addressed it, such as ``math@3``; may be empty.
        digest: of its content.
        weight: factor of its delta.
        forced: it was put on a base other than its own, because the user insisted.
    """

    name: str
    label: str
    digest: str
    weight: float
    forced: bool = False

    @classmethod
    def from_json(cls, document: Any) -> SkillRecord:
        """Inverse of `vars`."""
        name, label, forced, weight = (document[field] for field in ("name", "label", "forced", "weight"))
        if not (isinstance(name, str) and isinstance(label, str) and isinstance(forced, bool)):
            raise TypeError("a skill has a name, a label or a flag of the wrong type")
        if type(weight) not in {int, float}:
            raise TypeError("a skill has a weight that is no number")
        return cls(name, label, parse_digest(document["digest"]), float(weight), forced)


@dataclass(frozen=True)
class Receipt:
    """What a managed model consists of. Paths are relative to the model folder, with forward slashes.

    Attributes:
        skills: the installed skills, sorted by digest, which is the order in which they are summed.
        fingerprint: of the base.
        tensors: digest of every tensor of the base.
        weights: the base's weight files and their indexes, as they were before anything was installed.
        originals: those of the base's files that have been put aside, to be found under the same path in the folder
            `model_folder.KEPT`.
        written: files that the install wrote.
        folders: folders that it made.
        tool: program and version that wrote the receipt.
    """

    skills: tuple[SkillRecord, ...]
    fingerprint: str
    tensors: Mapping[str, str]
    weights: Mapping[str, FileRecord]
    originals: Mapping[str, FileRecord]
    written: Mapping[str, FileRecord]
    folders: tuple[str, ...]
    tool: str

    def expected(self) -> dict[str, FileRecord]:
        """The files that must be in the model folder, and what they must be; user's own files are not among them."""
        untouched = {path: record for path, record in self.weights.items() if path not in self.originals}
        return {**untouched, **self.written}

    def dump(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {
                "format": FORMAT,
                "tool": self.tool,
                "skills": [vars(skill) for skill in self.skills],
                "base": {
                    "fingerprint": self.fingerprint,
                    "tensors": dict(self.tensors),
                    "weights": _records_to_json(self.weights),
                },
                "originals": _records_to_json(self.originals),
                "written": _records_to_json(self.written),
                "folders": list(self.folders),
            }
        )

    @classmethod
    def load(cls, data: bytes, path: Path) -> Receipt:
        """Inverse of `dump`; nothing in `data` is trusted.

        Args:
            data: the receipt.
            path: where it is, for messages.

        Raises:
            DamagedCheckpointError: it is no receipt.
            SkillPackError: a newer version wrote it.
        """
        try:
            document = parse_json(data, limit=LIMIT)
            if document["format"] != FORMAT:
                raise SkillPackError(
                    f"{path} has format {document['format']!r}; this version reads format {FORMAT}",
                    hint="Upgrade skillpack.",
                )
            return cls._parse(document)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DamagedCheckpointError(
                f"{path} is not a receipt ({error!r})",
                hint=f"The base's files are in {path.parent / 'base'}; move them back by hand.",
            ) from error

    @classmethod
    def _parse(cls, document: Any) -> Receipt:
        base = document["base"]
        skills = tuple(SkillRecord.from_json(skill) for skill in document["skills"])
        return cls(
            skills=tuple(sorted(skills, key=lambda skill: skill.digest)),
            fingerprint=parse_digest(base["fingerprint"]),
            tensors={str(name): parse_digest(digest) for name, digest in base["tensors"].items()},
            weights=_records_from_json(base["weights"]),
            originals=_records_from_json(document["originals"]),
            written=_records_from_json(document["written"]),
            folders=tuple(safe_path(path) for path in document["folders"]),
            tool=str(document["tool"]),
        )


def file_digest(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Digest of a file's bytes, ``sha256:…``; `progress` is called with the bytes of each piece."""
    content, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            content.update(view[:count])
            if progress is not None:
                progress(count)
    return f"sha256:{content.hexdigest()}"


def safe_path(path: object) -> str:
    """Return `path` if it is a relative path to a place within the model folder that is not ours.

    Raises:
        ValueError: it is not.

    >>> safe_path("1_Pooling/config.json")
    '1_Pooling/config.json'
    >>> safe_path("../config.json")
    Traceback (most recent call last):
    ValueError: not a path within a model folder: '../config.json'
    """
    if isinstance(path, str) and path.isprintable() and "\\" not in path:
        parts = path.split("/")
        if (
            PurePosixPath(path).as_posix() == path
            and ".." not in parts
            and parts[0].lower() not in {"", ".", ".skillpack"}
        ):
            return path
    raise ValueError(f"not a path within a model folder: {path!a:.200}")


def _records_to_json(records: Mapping[str, FileRecord]) -> dict[str, Any]:
    return {path: record.to_json() for path, record in records.items()}


def _records_from_json(document: Any) -> dict[str, FileRecord]:
    return {safe_path(path): FileRecord.from_json(document[path]) for path in sorted(document)}
