"""Reading and writing single safetensors files; the header is trusted for nothing.

Format: https://github.com/huggingface/safetensors#format. An 8-byte little-endian length, a JSON header of that many
bytes, then the tensors without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import numpy as np

from skillpack.errors import CheckpointError, DamagedCheckpointError, UnsupportedCheckpointError
from skillpack.tensors import DTYPE_BYTES, Tensor
from skillpack_store import disk
from skillpack_store.descriptors import refuse_crowd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_HEADER_BYTES: Final = 100_000_000
MAX_DIMENSIONS: Final = 32
_MAX_ELEMENTS: Final = 2**58
# Known only so that a sound file with such tensors is refused for the right reason.
_OTHER_BITS: Final = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "F8_E4M3": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E8M0": 8,
    "C64": 64,
}
_BITS: Final = {**{dtype: 8 * size for dtype, size in DTYPE_BYTES.items()}, **_OTHER_BITS}


class Entry(NamedTuple):
    """Where one tensor lies: dtype, shape, and the half-open byte range [start, end) within the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself, checked against the file's size.

    Attributes:
        entries: tensor name -> entry, in the order of the bytes in the file.
        metadata: the `__metadata__` strings; empty when there are none.
        size: bytes of length field and header together, where the first tensor starts.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    size: int


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        DamagedCheckpointError: truncated or malformed file, or offsets that overlap, leave gaps or miss the end.
        CheckpointError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            file_size = file.seek(0, 2)
            file.seek(0)
            prefix = file.read(8)
            if len(prefix) < 8:
                _damaged(path, f"is {file_size} bytes long, too short for a safetensors file")
            (length,) = struct.unpack("<Q", prefix)
            if length > MAX_HEADER_BYTES:
                _damaged(path, f"announces a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
            if length > file_size - 8:
                _damaged(path, f"is truncated: the header takes {8 + length} bytes, the file has {file_size}")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _parse(path, text, file_size)


def open_tensor(path: Path, header: Header, name: str) -> Tensor:
    """One tensor as a read-only memory map; its pages are read when used and given back when it is dropped.

    Raises:
        KeyError: the file has no such tensor.
        UnsupportedCheckpointError: a dtype that no codec handles, such as F8_E4M3.
        DamagedCheckpointError: the file has shrunk since its header was read.
    """
    entry = header.entries[name]
    if entry.dtype not in DTYPE_BYTES:
        raise UnsupportedCheckpointError(f"{path}: tensor {name} has dtype {entry.dtype}, which is not supported")
    if entry.start == entry.end:
        return Tensor(entry.dtype, entry.shape, np.empty(0, np.uint8))
    try:
        mapped = np.memmap(path, np.uint8, "r", entry.start, (entry.end - entry.start,))
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error
    return Tensor(entry.dtype, entry.shape, np.asarray(mapped))


def plan_header(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None) -> bytes:
    """Length field and header of a file that will hold `entries` in the order given.

    Args:
        entries: tensor name -> (dtype, shape).
        metadata: strings for `__metadata__`; left out when empty.

    Returns:
        The first bytes of the file, padded with spaces so that the first tensor starts at a multiple of 8 bytes.
    """
    document: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name, (dtype, shape) in entries.items():
        start, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        document[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def aligned_order(entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Names with wide dtypes first, then by name: every tensor is aligned and the order depends on nothing else.

    >>> aligned_order({"b": ("BF16", (1,)), "a": ("BF16", (3,)), "c": ("F32", (2,))})
    ['c', 'a', 'b']
    """
    return sorted(entries, key=lambda name: (-DTYPE_BYTES[entries[name][0]], name))


def file_chunks(
    entries: Mapping[str, tuple[str, tuple[int, ...]]],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, header first, then one tensor at a time.

    Args:
        entries: tensor name -> (dtype, shape), in the order wanted in the file.
        read: gives the tensor of a name when its turn comes; nothing keeps it afterwards.
        metadata: strings for `__metadata__`.

    Raises:
        ValueError: `read` gives another dtype or shape than planned.
    """
    yield plan_header(entries, metadata)
    for name, planned in entries.items():
        tensor = read(name)
        if (tensor.dtype, tensor.shape) != planned:
            raise ValueError(f"tensor {name}: planned {planned}, got {tensor}")
        yield tensor.data.data


def write_safetensors(
    path: Path,
    entries: Mapping[str, tuple[str, tuple[int, ...]]],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a new safetensors file durably, one tensor at a time (see `file_chunks`).

    Raises:
        FileExistsError: `path` exists.
        OSError: the disk is full or the folder read-only; nothing is left behind.
    """
    disk.write_new(path, file_chunks(entries, read, metadata))


def _parse(path: Path, text: bytes, file_size: int) -> Header:
    try:
        refuse_crowd(text)
        document = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        _damaged(path, f"has a header that is not valid JSON ({error})")
    if not isinstance(document, dict):
        _damaged(path, "has a header that is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _damaged(path, "has __metadata__ that is not a map of strings")
    data_start = 8 + len(text)
    entries = [(name, _entry(path, name, value, data_start)) for name, value in document.items()]
    entries.sort(key=lambda item: (item[1].start, item[1].end))
    _check_contiguous(path, entries, data_start, file_size)
    return Header(dict(entries), metadata, data_start)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name occurs twice")
    return document


def _entry(path: Path, name: str, value: Any, data_start: int) -> Entry:
    if not _is_sound_name(name):
        _damaged(path, f"has a tensor with the impossible name {name!a}")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        _damaged(path, f"tensor {name}: expected dtype, shape and data_offsets in the header")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        _damaged(path, f"tensor {name} has the unknown dtype {dtype!a}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS or math.prod(max(1, n) for n in shape) > _MAX_ELEMENTS:
        _damaged(path, f"tensor {name} has the impossible shape {shape!a:.80}")
    if not _are_counts(offsets) or len(offsets) != 2:
        _damaged(path, f"tensor {name} has impossible data_offsets {offsets!a:.80}")
    start, end = offsets
    if 8 * (end - start) != math.prod(shape) * _BITS[dtype]:
        _damaged(path, f"tensor {name}: {dtype} of shape {shape} does not take {end - start} bytes")
    return Entry(dtype, tuple(shape), data_start + start, data_start + end)


def _is_sound_name(name: str) -> bool:
    # A line break in a name would let two models share a fingerprint; a lone surrogate cannot be written down.
    return bool(name) and name.isprintable()


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_contiguous(path: Path, entries: list[tuple[str, Entry]], data_start: int, file_size: int) -> None:
    position = data_start
    for name, entry in entries:
        if entry.start != position:
            problem = "overlaps the tensor before it" if entry.start < position else "leaves a gap before it"
            _damaged(path, f"tensor {name} {problem}")
        if entry.end > file_size:
            _damaged(path, f"is truncated: tensor {name} ends at byte {entry.end}, the file has {file_size}")
        position = entry.end
    if position != file_size:
        _damaged(path, f"has {file_size - position} bytes after its last tensor")


def _damaged(path: Path, problem: str) -> NoReturn:
    raise DamagedCheckpointError(f"{path}: {problem}", hint="Copy or download the file again.")
