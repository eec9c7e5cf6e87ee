"""The way to disk and back that all methods share: one file, in which each tensor takes no more than it needs.

The file starts with the length of a header (4 bytes) and the header in JSON: the method, its settings, and a letter for
each tensor of the base. The tensors follow in the order of their names, without any names or offsets.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from benchmarks.baselines.changes import Changes
from benchmarks.baselines.stream import Reader, Writer
from skillpack.checkpoint import open_checkpoint
from skillpack.tensors import DTYPE_BYTES, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from typing_extensions import Self

    from benchmarks.baselines.changes import Embedding
    from benchmarks.baselines.protocol import Coded, Moments
    from skillpack.checkpoint import Checkpoint

FILE = "delta.bin"
_CODED, _WHOLE, _SAME = "c", "w", "-"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A method that codes one matrix at a time; see `Baseline`.

    Attributes:
        embedding: what becomes of embedding and head.
    """

    name: ClassVar[str]
    embedding: Embedding = "coded"

    @abstractmethod
    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], Coded]:
        """A function that codes a matrix, given its name and its delta."""

    @abstractmethod
    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> Coded:
        """Inverse of `Coded.write`."""

    @classmethod
    @abstractmethod
    def sweep(cls) -> list[Self]:
        """See `Baseline`."""

    def settings(self) -> dict[str, Any]:
        """What `read` has to know, as JSON; the class takes it as keywords."""
        return asdict(self)

    def save(self, base: Path, tuned: Path, folder: Path, *, moments: Moments | None = None) -> int:
        """See `Baseline`.

        Raises:
            FileExistsError: the folder is not empty.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty")
        changes = Changes(base, tuned, self.embedding)
        stream = Writer()
        self._write_matrices(changes, moments or {}, stream)
        for name in _whole_in_order(changes):
            stream.raw(changes.tensor(name).data.tobytes())
        header = json.dumps(self._header(changes, open_checkpoint(base)), separators=(",", ":")).encode()
        (folder / FILE).write_bytes(len(header).to_bytes(4, "little") + header + stream.data())
        return sum(file.stat().st_size for file in folder.iterdir())

    @classmethod
    def load(cls, folder: Path, base: Path) -> dict[str, torch.Tensor]:
        """See `Baseline`.

        Raises:
            ValueError: the folder was written by another method, or the file is cut short.
        """
        data = (folder / FILE).read_bytes()
        start = 4 + int.from_bytes(data[:4], "little")
        header = json.loads(data[4:start])
        if header["method"] != cls.name:
            raise ValueError(f"{folder} was written by {header['method']}, not by {cls.name}")
        method = cls(**header["settings"])
        return dict(_tensors(method, header, Reader(data, start), open_checkpoint(base)))

    def _write_matrices(self, changes: Changes, moments: Moments, stream: Writer) -> None:
        code = self.coder(changes, moments)
        for name in changes.coded:
            code(name, changes.delta(name)).write(stream)

    def _header(self, changes: Changes, base: Checkpoint) -> dict[str, Any]:
        letters = dict.fromkeys(base.tensors, _SAME) | dict.fromkeys(changes.coded, _CODED)
        letters |= dict.fromkeys(filter(changes.is_shaped_as_base, changes.whole), _WHOLE)
        new = [changes.tensor(name) for name in _new(changes)]
        return {
            "method": self.name,
            "settings": self.settings(),
            "tensors": "".join(letters[name] for name in base.tensors),
            "new": [[name, one.dtype, one.shape] for name, one in zip(_new(changes), new, strict=True)],
        }


def _tensors(
    method: Method, header: dict[str, Any], stream: Reader, base: Checkpoint
) -> Iterator[tuple[str, torch.Tensor]]:
    letters = dict(zip(base.tensors, header["tensors"], strict=True))
    for name in (name for name, letter in letters.items() if letter == _CODED):
        shape = base.tensors[name].shape
        delta = method.read((shape[0], shape[1]), name, stream).matrix()
        yield name, torch.from_numpy(base.read(name).float32()) + delta
    known = [base.tensors[name] for name, letter in letters.items() if letter == _WHOLE]
    places = [(info.name, info.dtype, info.shape) for info in known]
    for name, dtype, shape in [*places, *header["new"]]:
        data = stream.raw(DTYPE_BYTES[dtype] * math.prod(shape))
        tensor = Tensor(dtype, tuple(shape), np.frombuffer(data, np.uint8))
        values = tensor.float32() if tensor.is_float else tensor.array()
        yield name, torch.from_numpy(values.copy())


def _new(changes: Changes) -> list[str]:
    return [name for name in changes.whole if not changes.is_shaped_as_base(name)]


def _whole_in_order(changes: Changes) -> list[str]:
    return [name for name in changes.whole if changes.is_shaped_as_base(name)] + _new(changes)
