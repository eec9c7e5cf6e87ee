"""Little memory for large tensors: arrays in files, and memory that goes back when it is free."""

from __future__ import annotations

import ctypes
import math
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt


def mapped(path: str | Path, size: int, *, shared: bool = False) -> npt.NDArray[np.uint8]:
    """The first bytes of a file as an array; what is written to them stays in memory, unless the file is shared.

    The file is closed: numpy's own maps keep it open, and a process often may have no more than 1,024 files open.

    Args:
        path: of the file, which may be removed afterwards.
        size: how many bytes of it, at least one.
        shared: write to the file.

    Raises:
        OSError: it cannot be opened, or is smaller.
    """
    try:
        data = torch.from_file(str(path), shared=shared, size=size, dtype=torch.uint8)
    except RuntimeError as error:
        raise OSError(f"{path}: cannot be mapped: {error}") from error
    return data.numpy().view(np.memmap)


def spooled(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A writable array of zeros backed by a file in the folder for temporary files (``TMPDIR``).

    The file loses its name at once, and goes away with the array's last reference.

    Raises:
        OSError: that folder is full or cannot be written.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:
        return np.zeros(shape, dtype)
    with tempfile.NamedTemporaryFile(prefix="skillpack-") as file:
        file.truncate(size)
        return mapped(file.name, size, shared=True).view(dtype).reshape(shape)


def spool(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Copies of arrays in temporary files; arrays that already are in a file stay as they are."""
    return {name: array if isinstance(array, np.memmap) else _copied(array) for name, array in arrays.items()}


def _copied(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    copy = spooled(array.shape, array.dtype)
    copy[...] = array
    return copy


def give_back() -> None:
    """Let the operating system have the memory that is free.

    Of what tensors took glibc keeps hundreds of megabytes, as long as a byte behind them is in use.
    """
    # Other C libraries have no such function, nor the trouble.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
