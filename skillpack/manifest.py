"""The manifest of a skill: which tensors and files it changes, on which base, and how they are coded.

It is canonical JSON compressed with zstandard, the config blob of the skill's OCI manifest. `docs/format.md` is its
specification. Nothing in it depends on when, where or by whom a skill was packed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import zstandard

from skillpack.codecs.entropy import CODER
from skillpack.companions import FileChange
from skillpack.delta import Renaming
from skillpack.errors import DamagedSkillError
from skillpack.tensors import DTYPE_BYTES
from skillpack_store import canonical_json, parse_digest, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE: Final = "application/vnd.skillpack.manifest.v1+json+zstd"
LAYER_TYPE: Final = "application/vnd.skillpack.streams.v1+safetensors"
FORMAT: Final = 1
FILES: Final = "files"
"""Block of the layers that holds the contents of changed files."""

_LIMIT: Final = 256 << 20
_FILE_LIMIT: Final = 256 << 20
_BLOCK: Final = re.compile(r"(?:[^.]+\.)*?\d+(?=\.)")
_MAX_ELEMENTS: Final = 1 << 40
_MAX_DIMENSIONS: Final = 32


@dataclass(frozen=True)
class Part:
    """One coded piece of a tensor.

    Attributes:
        codec: name of the codec that decodes it.
        parameters: the codec's side information.
        sizes: bytes of its chunks, which follow one another in the tensor's block.
    """

    codec: str
    parameters: Mapping[str, Any]
    sizes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Coded bytes, side information not included."""
        return sum(self.sizes)

    def to_json(self) -> dict[str, Any]:
        """As in the manifest."""
        return {"codec": self.codec, "parameters": dict(self.parameters), "sizes": list(self.sizes)}

    @classmethod
    def from_json(cls, document: Any) -> Part | None:
        """Inverse of `to_json`; None for None."""
        if document is None:
            return None
        sizes = tuple(_count(size) for size in document["sizes"])
        return cls(_text(document["codec"]), dict(document["parameters"].items()), sizes)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor that the skill changes.

    Attributes:
        name: as an install writes it; so are dtype (a safetensors name) and shape.
        dtype: see `name`.
        shape: see `name`.
        reference: the base tensor that it is relative to, if any.
        reference_digest: that tensor's digest.
        common_rows: see `skillpack.delta.Change`.
        same_as: the installed tensor is byte for byte the installed tensor of this name, and there are no parts.
        main: the values relative to the reference, or the whole tensor where there is no reference.
        rows: the rows beyond `common_rows`.
        error: Frobenius norm of what coding left out, relative to that of the delta; 0 if lossless.
        bound: bytes that any code needs to come as close to Gaussians with the delta's structure, to three digits, see
            `skillpack.codecs.gaussian`; of `main` alone, None if lossless or not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    reference: str | None = None
    reference_digest: str | None = None
    common_rows: int | None = None
    same_as: str | None = None
    main: Part | None = None
    rows: Part | None = None
    error: float = 0.0
    bound: int | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts there are, in the order in which they are stored."""
        return tuple(part for part in (self.main, self.rows) if part is not None)

    @property
    def nbytes(self) -> int:
        """Coded bytes, side information not included."""
        return sum(part.nbytes for part in self.parts)

    @property
    def bounded_bytes(self) -> int:
        """Coded bytes of the part that `bound` is about; 0 without a bound."""
        return 0 if self.bound is None or self.main is None else self.main.nbytes

    def to_json(self) -> dict[str, Any]:
        """As in the manifest: what is absent is left out."""
        document = {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "reference": self.reference,
            "digest": self.reference_digest and self.reference_digest.removeprefix("sha256:"),
            "common_rows": self.common_rows,
            "same_as": self.same_as,
            "main": self.main and self.main.to_json(),
            "rows": self.rows and self.rows.to_json(),
            "error": self.error or None,
            "bound": self.bound,
        }
        return {key: value for key, value in document.items() if value is not None}

    @classmethod
    def from_json(cls, document: Any) -> TensorEntry:
        """Inverse of `to_json`; ValueError, KeyError or TypeError if it is no such entry."""
        digest = document.get("digest")
        entry = cls(
            name=_text(document["name"]),
            dtype=_text(document["dtype"]),
            shape=tuple(_count(size) for size in document["shape"]),
            reference=_optional_text(document.get("reference")),
            reference_digest=None if digest is None else parse_digest(f"sha256:{digest}"),
            common_rows=None if document.get("common_rows") is None else _count(document["common_rows"]),
            same_as=_optional_text(document.get("same_as")),
            main=Part.from_json(document.get("main")),
            rows=Part.from_json(document.get("rows")),
            error=_error(document.get("error", 0.0)),
            bound=None if document.get("bound") is None else _count(document["bound"]),
        )
        entry._check()
        return entry

    def _check(self) -> None:
        elements = 1
        for size in self.shape:
            elements *= max(1, size)
        for name in (self.name, self.reference, self.same_as):
            if name is not None:
                _check_name(name)
        if self.dtype not in DTYPE_BYTES or elements > _MAX_ELEMENTS or len(self.shape) > _MAX_DIMENSIONS:
            raise ValueError(f"tensor {self.name} has dtype {self.dtype} and shape {self.shape}")
        if (self.reference is None) != (self.reference_digest is None):
            raise ValueError(f"tensor {self.name} lacks its reference or the digest of it")
        if (self.same_as is None) == (self.main is None):
            raise ValueError(f"tensor {self.name} must either have a part or be the same as another")
        if self.common_rows is not None and not (self.shape and self.reference and self.common_rows <= self.shape[0]):
            raise ValueError(f"tensor {self.name} of shape {self.shape} has {self.common_rows} rows in common")
        grown = self.common_rows is not None and self.common_rows < self.shape[0]
        if (self.rows is not None) != (grown and self.same_as is None):
            raise ValueError(f"tensor {self.name} lacks its new rows, or has some that have no place")


@dataclass(frozen=True)
class CodedFile:
    """A changed file.

    Attributes:
        path: relative, with forward slashes.
        kind: "patch" or "whole", see `skillpack.companions.FileChange`.
        size: bytes of its content.
        coded: bytes of its content in the block of files, compressed with zstandard.
    """

    path: str
    kind: str
    size: int
    coded: int

    def __post_init__(self) -> None:
        # All of a file is decompressed into memory at once.
        if self.size > _FILE_LIMIT:
            raise ValueError(
                f"the file {self.path} has {self.size} bytes, more than the {_FILE_LIMIT} that are allowed"
            )


@dataclass(frozen=True)
class Manifest:
    """What a skill changes.

    Attributes:
        base_fingerprint: of the whole base.
        tuned_fingerprint: of the whole fine-tune.
        renaming: rule that takes the base's names to the names that an install writes.
        gone: name and digest of each base tensor that an install leaves out.
        tensors: the changed tensors, sorted by name.
        files: the changed files, sorted by path.
        tables: frequency tables of the entropy coder, JSON (`skillpack.codecs.entropy.Tables`).
        recipe: of what a composed skill was made and how, JSON (`skillpack.composing.recipe`); None if it was packed.
    """

    base_fingerprint: str
    tuned_fingerprint: str
    renaming: Renaming
    gone: tuple[tuple[str, str], ...]
    tensors: tuple[TensorEntry, ...]
    files: tuple[CodedFile, ...]
    tables: Mapping[str, Any]
    recipe: Mapping[str, Any] | None = None

    def dump(self) -> bytes:
        """The manifest's bytes; equal manifests give equal bytes."""
        document = {
            "format": FORMAT,
            "coder": CODER,
            "base": self.base_fingerprint,
            "tuned": self.tuned_fingerprint,
            "names": {"strip": self.renaming.strip, "add": self.renaming.add},
            "gone": [list(pair) for pair in self.gone],
            "tensors": [entry.to_json() for entry in self.tensors],
            "files": [vars(file) for file in self.files],
            "tables": dict(self.tables),
        }
        if self.recipe is not None:
            document["recipe"] = dict(self.recipe)
        return zstandard.ZstdCompressor(level=19).compress(canonical_json(document))

    @classmethod
    def load(cls, data: bytes) -> Manifest:
        """Inverse of `dump`.

        Raises:
            DamagedSkillError: it is not a manifest of this format.
        """
        try:
            return cls._parse(parse_json(_decompressed(data), limit=_LIMIT))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, zstandard.ZstdError) as error:
            raise DamagedSkillError(f"the manifest of the skill is damaged: {error}") from error

    @classmethod
    def _parse(cls, document: Any) -> Manifest:
        if document["format"] != FORMAT or document["coder"] != CODER:
            raise DamagedSkillError(
                f"the skill has format {document['format']!r} with coder {document['coder']!r}; "
                f"this version reads format {FORMAT} with coder {CODER!r}",
                hint="Upgrade skillpack.",
            )
        manifest = cls(
            base_fingerprint=parse_digest(document["base"]),
            tuned_fingerprint=parse_digest(document["tuned"]),
            renaming=Renaming(_text(document["names"]["strip"]), _text(document["names"]["add"])),
            gone=tuple((_text(name), parse_digest(digest)) for name, digest in document["gone"]),
            tensors=tuple(TensorEntry.from_json(entry) for entry in document["tensors"]),
            files=tuple(_coded_file(file) for file in document["files"]),
            tables=document["tables"],
            recipe=None if document.get("recipe") is None else dict(document["recipe"].items()),
        )
        names = [[entry.name for entry in manifest.tensors], [file.path for file in manifest.files]]
        for listed in (*names, [name for name, _ in manifest.gone]):
            if listed != sorted(set(listed)):
                raise ValueError("names are not sorted or occur twice")
        for name, _ in manifest.gone:
            _check_name(name)
        if len({file.path.lower() for file in manifest.files}) < len(manifest.files):
            raise ValueError("two files have names that differ only in case, which some disks take for one")
        return manifest

    @property
    def bound(self) -> int | None:
        """Sum of the bounds of all tensors, bytes; None if no tensor has one."""
        known = [entry.bound for entry in self.tensors if entry.bound is not None]
        return sum(known) if known else None

    def over_bound(self, size: int) -> float | None:
        """How many times the bound the approximated tensors take, with manifest, tables and headers.

        Args:
            size: bytes of the whole skill, of which lossless tensors and files are not counted.

        Returns:
            None where there is no bound, or where it is zero.
        """
        if not self.bound:
            return None
        lossless = sum(entry.nbytes - entry.bounded_bytes for entry in self.tensors)
        return (size - lossless - sum(file.coded for file in self.files)) / self.bound

    def places(self) -> dict[str, int]:
        """Where the first chunk of each tensor starts in its block, in bytes."""
        ends: dict[str, int] = defaultdict(int)
        places = {}
        for entry in self.tensors:
            block = block_of(entry.name)
            places[entry.name] = ends[block]
            ends[block] += entry.nbytes
        return places


def block_of(name: str) -> str:
    """The block of the model that a tensor belongs to: its name up to the first number.

    >>> block_of("model.layers.12.mlp.up_proj.weight"), block_of("model.norm.weight")
    ('model.layers.12', 'rest')
    """
    match = _BLOCK.match(name)
    return match.group() if match else "rest"


def _decompressed(data: bytes) -> bytes:
    size = zstandard.get_frame_parameters(data).content_size
    if not 0 < size <= _LIMIT:
        raise ValueError(f"it announces {size} bytes")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)


def _check_name(name: str) -> None:
    """Refuse names that no weight file can have; a line break would let two models share a fingerprint."""
    if not name or not name.isprintable() or name == "__metadata__":
        raise ValueError(f"a tensor has the impossible name {name[:80]!a}")


def _coded_file(document: Any) -> CodedFile:
    # Making a FileChange refuses paths that a skill may not write to.
    FileChange(document["path"], document["kind"], b"")
    return CodedFile(
        _text(document["path"]), _text(document["kind"]), _count(document["size"]), _count(document["coded"])
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _error(value: Any) -> float:
    if type(value) not in {int, float} or value < 0:
        raise ValueError(f"{value!r} is not an error")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a count")
    return value
