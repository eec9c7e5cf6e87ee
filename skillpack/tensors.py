"""A tensor as a checkpoint stores it: a dtype, a shape and little-endian bytes; and the exact casts between dtypes.

Only numpy is needed here, so that installing a skill starts fast and rounds the same way on every machine.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Factors = tuple[Doubles, Doubles]
"""[rows, rank] and [rank, columns]."""

DTYPE_BYTES: Final[dict[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
}
FLOAT_DTYPES: Final = frozenset({"F64", "F32", "F16", "BF16"})

_NUMPY: Final[dict[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_OF_NUMPY: Final[dict[str, str]] = {name: dtype for dtype, name in _NUMPY.items()}
_CHUNK: Final = 1 << 17


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor's values as stored.

    Attributes:
        dtype: safetensors name, a key of `DTYPE_BYTES`.
        shape: dimensions; `()` is a scalar.
        data: the values in C order, little endian, as 1-D uint8 of `nbytes`; may be a read-only memory map, whose
            pages are given back when the last view of it goes away.

    Raises:
        ValueError: the bytes do not fit dtype and shape.
    """

    dtype: str
    shape: tuple[int, ...]
    data: Bytes

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"unknown dtype {self.dtype}")
        expected = math.prod(self.shape) * DTYPE_BYTES[self.dtype]
        if self.data.dtype != np.uint8 or self.data.shape != (expected,):
            raise ValueError(
                f"{self.dtype} of shape {self.shape} takes {expected} bytes, got {self.data.dtype} {self.data.shape}"
            )

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.data.size

    @property
    def is_float(self) -> bool:
        """Whether the values are floating point, so that a difference of two tensors makes sense."""
        return self.dtype in FLOAT_DTYPES

    def bits(self) -> npt.NDArray[Any]:
        """The values as unsigned integers of the storage width, in `shape`, without a copy where aligned.

        >>> Tensor.from_float32(np.array([1.0, -2.0], np.float32), "BF16").bits().tolist()
        [16256, 49152]
        """
        return self.data.view(f"<u{DTYPE_BYTES[self.dtype]}").reshape(self.shape)

    def float32(self) -> Floats:
        """The values as fp32, in `shape`. BF16 and F16 widen exactly, F64 rounds to nearest even.

        The result is a view of `data` for F32 and a new array otherwise.

        Raises:
            TypeError: the tensor holds integers or booleans.
        """
        if not self.is_float:
            raise TypeError(f"{self.dtype} has no floating-point values")
        if self.dtype == "BF16":
            widened = self.bits().astype("<u4")
            widened <<= 16
            return widened.view("<f4")
        with np.errstate(over="ignore", invalid="ignore"):
            return self.array().astype("<f4", copy=False)

    def array(self) -> npt.NDArray[Any]:
        """The values as a numpy array in `shape`, without a copy.

        Raises:
            TypeError: numpy has no such dtype (BF16; use `float32` or `bits`).
        """
        if self.dtype not in _NUMPY:
            raise TypeError(f"numpy has no {self.dtype}")
        return self.data.view(_NUMPY[self.dtype]).reshape(self.shape)

    def digest(self) -> str:
        """Content digest: sha256 over dtype, shape and bytes, e.g. ``sha256:9f86…``."""
        state = hashlib.sha256(f"{self.dtype} {'x'.join(map(str, self.shape))}\n".encode())
        state.update(self.data.data)
        return f"sha256:{state.hexdigest()}"

    @staticmethod
    def from_float32(values: npt.NDArray[Any], dtype: str) -> Tensor:
        """Cast fp32 values once, to nearest with ties to even; NaN stays NaN, overflow becomes infinity.

        Args:
            values: fp32 array of any shape.
            dtype: F64, F32, F16 or BF16.

        Raises:
            TypeError: `values` is not fp32 or `dtype` is not a floating-point dtype.
        """
        if values.dtype != np.float32 or dtype not in FLOAT_DTYPES:
            raise TypeError(f"cannot cast {values.dtype} to {dtype} here")
        flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        if dtype == "BF16":
            return Tensor(dtype, values.shape, _round_to_bf16(flat).view(np.uint8))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            cast = flat.astype(_NUMPY[dtype])
        return Tensor(dtype, values.shape, cast.view(np.uint8))

    @staticmethod
    def of(array: npt.NDArray[Any]) -> Tensor:
        """Wrap a numpy array of floats, integers or booleans, copying only if it is not contiguous.

        >>> Tensor.of(np.zeros((2, 3), np.int16))
        Tensor(I16, 2x3)

        Raises:
            TypeError: no safetensors dtype corresponds (complex numbers, text, objects).
        """
        little = array.dtype.newbyteorder("<")
        if little.str not in _OF_NUMPY:
            raise TypeError(f"no tensor dtype for {array.dtype}")
        flat = np.ascontiguousarray(array, dtype=little).reshape(-1)
        return Tensor(_OF_NUMPY[little.str], array.shape, flat.view(np.uint8))

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}, {'x'.join(map(str, self.shape)) or 'scalar'})"


def _round_to_bf16(values: Floats) -> npt.NDArray[np.uint16]:
    """BF16 bit patterns of 1-D fp32 `values`, in pieces so that no second fp32-sized array is made."""
    rounded = np.empty(values.size, dtype="<u2")
    for start in range(0, values.size, _CHUNK):
        bits = values[start : start + _CHUNK].view("<u4")
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        nearest = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
        rounded[start : start + _CHUNK] = np.where(is_nan, (bits >> 16) | 0x40, nearest)
    return rounded
