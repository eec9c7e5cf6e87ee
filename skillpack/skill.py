"""A skill: opened from a store, checked, and decoded tensor by tensor."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

import numpy as np
import zstandard

from skillpack.codecs import codec_named
from skillpack.codecs.entropy import ChunkReader, Tables
from skillpack.codecs.protocol import FactoredCodec, Layout
from skillpack.companions import FileChange
from skillpack.errors import CheckpointError, CorruptStoreError, DamagedSkillError, SkillPackError
from skillpack.manifest import FILES, LAYER_TYPE, MEDIA_TYPE, Manifest, Part, TensorEntry, block_of
from skillpack.safetensors_file import open_tensor, read_header
from skillpack.tensors import DTYPE_BYTES, Bytes, Floats, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from skillpack.codecs.protocol import DeltaFactors
    from skillpack_store import Descriptor, Repository, SkillManifest

MANIFEST_LIMIT: Final = 256 << 20
"""Most bytes that a manifest may have, compressed."""


class Decoded(NamedTuple):
    """What a skill says about one tensor.

    Attributes:
        value: the tensor itself, from a lossless codec; of the common rows only where the entry has some.
        delta: otherwise what to add to the base's, fp32, of the same extent.
        rows: the new rows beyond the common ones.
    """

    value: Tensor | None
    delta: Floats | None
    rows: Tensor | None

    def difference(self, name: str, reference: Tensor) -> Floats:
        """What is added to the base's tensor, fp32 of the same extent; of an exact value, what it differs by.

        Args:
            name: of the tensor, for the error.
            reference: the base's tensor.

        Raises:
            DamagedSkillError: there is neither a value nor a delta.
        """
        if self.delta is not None:
            return self.delta
        if self.value is None:
            raise DamagedSkillError(f"tensor {name} decodes to nothing")
        with np.errstate(invalid="ignore", over="ignore"):
            return self.value.float32() - reference.float32()


class BlobFiles(Protocol):
    """Where the blobs of a skill are."""

    def path(self, digest: str) -> Path:
        """The file of a blob."""

    def read(self, digest: str, *, limit: int) -> bytes:
        """The checked content of a small blob."""

    def verify(self, digest: str) -> None:
        """Check the content of a blob."""


class Skill:
    """An opened skill; every byte of it has been compared with its digest.

    Attributes:
        name: under which it was addressed.
        digest: of its content; its identity.
        size: bytes of everything that the digest covers.
        manifest: what it changes.
    """

    def __init__(self, name: str, digest: str, listing: SkillManifest, blobs: BlobFiles) -> None:
        self.name = name
        self.digest = digest
        self.size = listing.size
        self.manifest = open_manifest(name, listing.config, blobs.read(listing.config.digest, limit=MANIFEST_LIMIT))
        self._tables = _load_tables(self.manifest)
        self._blocks: dict[str, Bytes] = {}
        for layer in listing.layers:
            if layer.media_type != LAYER_TYPE:
                raise DamagedSkillError(f"skill {name} has a layer of unknown type {layer.media_type}")
            blobs.verify(layer.digest)
            blocks = _blocks(blobs.path(layer.digest))
            if twice := blocks.keys() & self._blocks.keys():
                raise DamagedSkillError(f"skill {name} has the streams of {min(twice)} twice")
            self._blocks.update(blocks)
        self._places = self.manifest.places()
        self._check_extent()

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from skillpack.notebook import skill_html

        return skill_html(self)

    def __repr__(self) -> str:
        return f"Skill({self.name!r}, {self.digest[:19]}, {self.size:,} bytes, {len(self.manifest.tensors)} tensors)"

    def decode(self, entry: TensorEntry, reference: Tensor | None) -> Decoded:
        """Decode one tensor.

        Args:
            entry: of this skill's manifest, with parts of its own (`same_as` unset).
            reference: the base tensor that the entry names, whole.

        Raises:
            DamagedSkillError: the coded streams make no sense.
        """
        if entry.main is None:
            raise ValueError(f"tensor {entry.name} is the same as {entry.same_as}")
        common = entry.shape if entry.common_rows is None else (entry.common_rows, *entry.shape[1:])
        start = None if reference is None else first_rows(reference, common)
        main = self._decode_part(entry, entry.main, 0, common, start)
        rows = None
        if entry.rows is not None:
            extra = (entry.shape[0] - common[0], *entry.shape[1:])
            rows = cast("Tensor", self._decode_part(entry, entry.rows, entry.main.nbytes, extra, None))
        if isinstance(main, Tensor):
            return Decoded(main, None, rows)
        return Decoded(None, main, rows)

    def factors(self, entry: TensorEntry) -> DeltaFactors | None:
        """The delta of a matrix as two thin factors, without forming it.

        Args:
            entry: of this skill's manifest.

        Returns:
            None where the entry is no matrix, has new rows, or is coded in another way: `decode` gives that.

        Raises:
            DamagedSkillError: the coded streams make no sense.
        """
        part = entry.main
        if part is None or entry.common_rows is not None or len(entry.shape) != 2:
            return None
        codec = codec_named(part.codec)
        if not isinstance(codec, FactoredCodec):
            return None
        rows, columns = entry.shape
        with self._blamed(entry):
            return codec.decode_factors(part.parameters, self.main_chunks(entry), (rows, columns))

    def main_chunks(self, entry: TensorEntry) -> Iterator[ChunkReader]:
        """The coded chunks of an entry's part `main`, for who wants more than the sum that `decode` gives."""
        sizes = () if entry.main is None else entry.main.sizes
        return self._chunks(block_of(entry.name), self._places[entry.name], sizes)

    def file_changes(self) -> list[FileChange]:
        """What the skill changes in tokenizer, template and config files."""
        return [
            FileChange(file.path, file.kind, _decompressed(coded, file.size))  # type: ignore[arg-type]
            for file, coded in zip(self.manifest.files, self.coded_files(), strict=True)
        ]

    def coded_files(self) -> list[bytes]:
        """The contents of the manifest's files as they are stored, compressed."""
        block, found, start = self._blocks.get(FILES, np.empty(0, np.uint8)), [], 0
        for file in self.manifest.files:
            found.append(block[start : start + file.coded].tobytes())
            start += file.coded
        return found

    def streams(self, entry: TensorEntry) -> list[bytes]:
        """The coded bytes of each part of a tensor of this skill's manifest, as they are stored."""
        block, start = self._blocks.get(block_of(entry.name), np.empty(0, np.uint8)), self._places[entry.name]
        found = []
        for part in entry.parts:
            found.append(block[start : start + part.nbytes].tobytes())
            start += part.nbytes
        return found

    def _decode_part(
        self, entry: TensorEntry, part: Part, offset: int, shape: tuple[int, ...], reference: Tensor | None
    ) -> Tensor | Floats:
        chunks = self._chunks(block_of(entry.name), self._places[entry.name] + offset, part.sizes)
        with self._blamed(entry):
            decoded = codec_named(part.codec).decode(part.parameters, chunks, Layout(entry.dtype, shape), reference)
        if decoded.shape != shape:
            raise DamagedSkillError(f"skill {self.name}, tensor {entry.name}: {decoded.shape} decoded for {shape}")
        return decoded

    @contextmanager
    def _blamed(self, entry: TensorEntry) -> Iterator[None]:
        """Name skill and tensor in errors of a codec."""
        try:
            yield
        except DamagedSkillError as error:
            raise DamagedSkillError(f"skill {self.name}, tensor {entry.name}: {error}", hint=error.hint) from error
        except MemoryError as error:
            raise SkillPackError(f"skill {self.name}, tensor {entry.name}: not enough memory: {error}") from error
        except (ArithmeticError, LookupError, TypeError, ValueError, StopIteration, AssertionError) as error:
            raise DamagedSkillError(f"skill {self.name}, tensor {entry.name} cannot be decoded: {error!r}") from error

    def _chunks(self, block: str, start: int, sizes: tuple[int, ...]) -> Iterator[ChunkReader]:
        # A block whose streams are all empty is in no layer.
        streams = self._blocks.get(block, np.empty(0, np.uint8))
        for size in sizes:
            yield ChunkReader(streams[start : start + size].tobytes(), self._tables)
            start += size

    def _check_extent(self) -> None:
        """Every block must be exactly as long as the manifest says, so that no slice is cut short."""
        expected: dict[str, int] = {}
        for entry in self.manifest.tensors:
            if entry.nbytes:
                block = block_of(entry.name)
                expected[block] = expected.get(block, 0) + entry.nbytes
        if self.manifest.files:
            expected[FILES] = sum(file.coded for file in self.manifest.files)
        found = {block: data.size for block, data in self._blocks.items()}
        if found != expected:
            raise DamagedSkillError(f"skill {self.name}: layers and manifest disagree about the coded streams")


def open_skill(repository: Repository, digest: str, name: str) -> Skill:
    """Open a skill of a store, re-hashing every byte of it.

    Args:
        repository: the store.
        digest: of the skill's OCI manifest.
        name: for messages and receipts.

    Raises:
        CorruptStoreError: a blob is not what its name says.
        DamagedSkillError: the content is no skill.
        NotFoundError: it is not in the store.
    """
    return Skill(name, digest, repository.skill_manifest(digest), repository.blobs)


def open_manifest(name: str, config: Descriptor, data: bytes) -> Manifest:
    """Read the manifest of a skill.

    Args:
        name: of the skill, for messages.
        config: how the skill refers to it.
        data: its bytes, compared with the digest.

    Raises:
        DamagedSkillError: it is none.
    """
    if config.media_type != MEDIA_TYPE:
        raise DamagedSkillError(f"skill {name} has a manifest of unknown type {config.media_type}")
    return Manifest.load(data)


def first_rows(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The part of a base tensor that rows in common with `shape` are relative to, as a view.

    Raises:
        CheckpointError: the base's tensor has another shape.
    """
    same = tensor.shape == shape
    cut = len(tensor.shape) == len(shape) > 0 and tensor.shape[1:] == shape[1:] and tensor.shape[0] >= shape[0]
    if not same and not cut:
        raise CheckpointError(f"the base's tensor has shape {tensor.shape} where {shape} is needed")
    if same:
        return tensor
    size = DTYPE_BYTES[tensor.dtype] * int(np.prod(shape, dtype=np.int64))
    return Tensor(tensor.dtype, shape, tensor.data[:size])


def _load_tables(manifest: Manifest) -> Tables:
    try:
        return Tables.from_json(manifest.tables)
    except (AttributeError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise DamagedSkillError(f"the frequency tables of the skill are damaged: {error}") from error


def _blocks(path: Path) -> dict[str, Bytes]:
    try:
        header = read_header(path)
        if any(entry.dtype != "U8" for entry in header.entries.values()):
            raise CorruptStoreError(f"a layer of the skill is damaged: {path} holds tensors, not coded streams")
        return {name: open_tensor(path, header, name).data for name in header.entries}
    except CheckpointError as error:
        raise CorruptStoreError(f"a layer of the skill is damaged: {error}") from error


def _decompressed(coded: bytes, size: int) -> bytes:
    try:
        if zstandard.get_frame_parameters(coded).content_size != size:
            raise DamagedSkillError("a file in the skill is not as long as its manifest says")
        return zstandard.ZstdDecompressor().decompress(coded, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedSkillError(f"a file in the skill does not decompress: {error}") from error
