"""Fuzzes what a skill consists of: manifest, frequency tables, coded streams, layers, changed files.

``python fuzz/skill_streams.py -runs=20000``. A skill may be refused with SkillPack's own errors and nothing else; what
opens must decode to the announced dtypes and shapes, or be refused likewise.
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path

import atheris
import numpy as np
import zstandard

with atheris.instrument_imports(include=["skillpack", "skillpack_store"]):
    from skillpack.codecs.entropy import CODER, Table, Tables
    from skillpack.companions import FileChange, apply, combine
    from skillpack.errors import CheckpointError, ReportedError
    from skillpack.manifest import FILES, LAYER_TYPE, MEDIA_TYPE, Manifest, block_of
    from skillpack.safetensors_file import open_tensor, plan_header, read_header
    from skillpack.skill import Skill
    from skillpack.tensors import DTYPE_BYTES, Tensor
    from skillpack_store import Descriptor, SkillManifest, digest_of

sys.path.insert(0, str(Path(__file__).parent))
from harness import run, scratch

FOLDER = scratch()
LAYER = FOLDER / "layer.safetensors"
SMALL = 1 << 14
"""Elements of a tensor, and bytes of its streams, up to which it is decoded here; large ones are a unit test's."""
COMPRESSOR = zstandard.ZstdCompressor(level=1)
DIGEST = digest_of(b"")


class Blobs:
    """One manifest and one layer; digests are taken for granted."""

    def __init__(self, manifest: bytes) -> None:
        self.manifest = manifest

    def path(self, digest: str) -> Path:
        del digest
        return LAYER

    def read(self, digest: str, *, limit: int) -> bytes:
        del digest, limit
        return self.manifest

    def verify(self, digest: str) -> None:
        """Nothing to compare with."""


def manifest(data: bytes) -> None:
    """The JSON of a manifest."""
    with contextlib.suppress(ReportedError):
        found = Manifest.load(COMPRESSOR.compress(data))
        assert Manifest.load(found.dump()) == found


def frame(data: bytes) -> None:
    """A manifest as it is in a store, compressed."""
    with contextlib.suppress(ReportedError):
        Manifest.load(data)


def skill(data: bytes) -> None:
    """A whole skill: two bytes of length, the JSON of its manifest, and bytes that fill its streams."""
    length = int.from_bytes(data[:2], "little")
    coded, streams = COMPRESSOR.compress(data[2 : 2 + length]), data[2 + length :]
    with contextlib.suppress(ReportedError):
        found = Manifest.load(coded)
        if not fill(found, streams):
            return
        descriptor = Descriptor(DIGEST, 0, MEDIA_TYPE)
        opened = Skill("s", DIGEST, SkillManifest(descriptor, [Descriptor(DIGEST, 0, LAYER_TYPE)], 0), Blobs(coded))
        for entry in found.tensors:
            with contextlib.suppress(ReportedError):
                decode(opened, entry)
        for change in opened.file_changes():
            apply(change, b'{"a": {"b": [1, 2]}, "c": "d"}')


def fill(found: Manifest, streams: bytes) -> bool:
    """Write a layer whose blocks are as long as the manifest says, from what there is and then zeros."""
    sizes: dict[str, int] = {}
    for entry in found.tensors:
        if entry.nbytes:
            sizes[block_of(entry.name)] = sizes.get(block_of(entry.name), 0) + entry.nbytes
    if found.files:
        sizes[FILES] = sum(file.coded for file in found.files)
    total = sum(sizes.values())
    if total > SMALL:
        return False
    header = plan_header({block: ("U8", (size,)) for block, size in sizes.items()})
    LAYER.write_bytes(header + streams[:total].ljust(total, b"\0"))
    return True


def decode(opened: Skill, entry) -> None:
    if entry.main is None or math.prod(max(1, size) for size in entry.shape) > SMALL:
        return
    reference = None
    if entry.reference is not None:
        shape = entry.shape if entry.common_rows is None else (entry.common_rows, *entry.shape[1:])
        size = math.prod(shape) * DTYPE_BYTES[entry.dtype]
        reference = Tensor(entry.dtype, shape, (np.arange(size) * 37 % 128).astype(np.uint8))
    decoded = opened.decode(entry, reference)
    parts = [decoded.value, decoded.delta, decoded.rows]
    assert sum(math.prod(part.shape) for part in parts if part is not None) == math.prod(entry.shape)


def codec(data: bytes) -> None:
    """One part whose contexts all have the same table, so that any parameters come as far as they can.

    Bytes: codec, dtype, three lengths of axes (0: no such axis), number of chunks, two of the length of the parameters;
    then the parameters as JSON, and the streams, cut into equal chunks.
    """
    if len(data) < 8:
        return
    shape = [size % 12 for size in data[2:5] if size]
    length, chunks = int.from_bytes(data[6:8], "little"), max(1, data[5] % 8)
    streams = data[8 + length :]
    size = len(streams) // chunks // 4 * 4
    text = PART % (CODECS[data[0] % len(CODECS)], data[8 : 8 + length] or b"{}", [size] * chunks)
    dtype = sorted(DTYPE_BYTES)[data[1] % len(DTYPE_BYTES)]
    coded = COMPRESSOR.compress(text.replace(b"'SHAPE'", b"%a" % shape).replace(b"'DTYPE'", b'"%s"' % dtype.encode()))
    with contextlib.suppress(ReportedError):
        found = Manifest.load(coded)
        if fill(found, streams):
            listing = SkillManifest(Descriptor(DIGEST, 0, MEDIA_TYPE), [Descriptor(DIGEST, 0, LAYER_TYPE)], 0)
            opened = Skill("s", DIGEST, listing, Blobs(coded))
            opened._tables = OneForAll()
            decode(opened, found.tensors[0])


class OneForAll(Tables):
    """The same table for every context: a few small tokens, and two with raw bits."""

    def __init__(self) -> None:
        super().__init__({"": Table.from_json([[0, 1, 1, 1, 60, 40], [30_000, 15_000, 15_000, 5_000, 500, 36]])})

    def __getitem__(self, context: str) -> Table:
        del context
        return super().__getitem__("")

    def model(self, context: str) -> object:
        del context
        return super().model("")


CODECS = (b"lowrank", b"direct", b"sparse", b"tucker", b"lowrank+direct", b"exact", b"raw", b"factors")
PART = (
    b'{"format":1,"coder":"%s","base":"%s","tuned":"%s","names":{"strip":"","add":""},"gone":[],"files":[],"tables":{},'
    b'"tensors":[{"name":"w","dtype":\'DTYPE\',"shape":\'SHAPE\',"reference":"w","digest":"%s",'
    % (CODER.encode(), DIGEST.encode(), DIGEST.encode(), DIGEST.removeprefix("sha256:").encode())
    + b'"main":{"codec":"%s","parameters":%s,"sizes":%a}}]}'
)


def layer(data: bytes) -> None:
    """The header of a safetensors file, with a sound length; then its tensors."""
    length = int.from_bytes(data[:2], "little")
    LAYER.write_bytes(length.to_bytes(8, "little") + data[2:])
    with contextlib.suppress(CheckpointError):
        header = read_header(LAYER)
        for name in header.entries:
            with contextlib.suppress(CheckpointError):
                tensor = open_tensor(LAYER, header, name)
                assert tensor.nbytes <= len(data)
                assert name.isprintable()


def file_change(data: bytes) -> None:
    """A path, a patch and the file it is for, each after a line break; alone and together with another skill's."""
    path, _, rest = data.partition(b"\n")
    patch, _, current = rest.partition(b"\n")
    with contextlib.suppress(ReportedError):
        change = FileChange(path.decode("utf-8", "surrogateescape"), "patch", patch)
        place = FOLDER / change.path
        assert place.resolve().is_relative_to(FOLDER.resolve())
        assert change.path.isascii()
        apply(change, current)
        other = FileChange(change.path, "patch", b'[{"op":"add","path":"/new","value":1}]')
        for both in combine({"one": [change], "two": [other]}):
            apply(both, current)


CASES = {case.__name__: case for case in (skill, manifest, frame, layer, file_change, codec)}

if __name__ == "__main__":
    run(CASES)
