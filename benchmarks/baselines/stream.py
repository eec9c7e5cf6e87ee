"""Parts of a file one after another: whole arrays, integers of a few bits each, and sorted positions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.baselines import golomb

Integers = npt.NDArray[np.int64]

_AT_ONCE = 8
"""Codes packed together: eight of any width fill whole bytes."""


def pack(codes: npt.NDArray[np.integer], bits: int) -> bytes:
    """Non-negative integers below ``2**bits`` as `packed_bytes` bytes: `bits` bits each, the first ones highest.

    Of codes wider than a byte the high bits come first, those of all codes, and then the low bytes.

    >>> pack(np.array([1, 2, 3, 0]), 2).hex()
    '6c'
    """
    if bits > 8:
        return pack(codes >> 8, bits - 8) + pack(codes & 255, 8)
    if bits == 0:
        return b""
    padded = np.zeros(-(-codes.size // _AT_ONCE) * _AT_ONCE, np.uint64)
    padded[: codes.size] = codes
    words = np.zeros(padded.size // _AT_ONCE, np.uint64)
    for column in padded.reshape(-1, _AT_ONCE).T:
        words <<= np.uint64(bits)
        words |= column
    packed: npt.NDArray[np.uint8] = words.astype(">u8").view(np.uint8).reshape(-1, 8)[:, 8 - bits :]
    return packed.tobytes()[: packed_bytes(codes.size, bits)]


def unpack(data: bytes, count: int, bits: int) -> Integers:
    """Inverse of `pack`: int64 of shape (count,).

    >>> unpack(bytes.fromhex("6c"), 4, 2).tolist()
    [1, 2, 3, 0]
    """
    if bits > 8:
        high = packed_bytes(count, bits - 8)
        return unpack(data[:high], count, bits - 8) << 8 | unpack(data[high:], count, 8)
    if bits == 0:
        return np.zeros(count, np.int64)
    rows = -(-count // _AT_ONCE)
    words = np.zeros((rows, 8), np.uint8)
    words[:, 8 - bits :] = np.frombuffer(data.ljust(rows * bits, b"\0"), np.uint8).reshape(rows, bits)
    shifts = np.uint64(bits) * np.arange(_AT_ONCE - 1, -1, -1, dtype=np.uint64)
    codes = words.view(">u8").astype(np.uint64) >> shifts & np.uint64(2**bits - 1)
    return codes.astype(np.int64).reshape(-1)[:count]


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `pack` takes: ``ceil(count * bits / 8)``.

    >>> [packed_bytes(5, bits) for bits in (0, 1, 3, 8, 12)]
    [0, 1, 2, 5, 8]
    """
    if bits > 8:
        return packed_bytes(count, bits - 8) + count
    return -(-count * bits // 8)


class Writer:
    """Collects the parts of a file."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def data(self) -> bytes:
        """All parts."""
        return b"".join(self._parts)

    def raw(self, data: bytes) -> None:
        """Append bytes."""
        self._parts.append(data)

    def number(self, value: int) -> None:
        """Append a non-negative integer, seven bits a byte."""
        groups = []
        while value > 127:
            groups.append(value & 127 | 128)
            value >>= 7
        self.raw(bytes([*groups, value]))

    def array(self, values: torch.Tensor) -> None:
        """Append the values as they lie in memory."""
        self.raw(values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def codes(self, codes: torch.Tensor | npt.NDArray[np.integer], bits: int) -> None:
        """Append integers below ``2**bits``, of any shape, packed."""
        flat = codes.numpy() if isinstance(codes, torch.Tensor) else codes
        self.raw(pack(flat.reshape(-1), bits))

    def positions(self, positions: Integers, size: int) -> None:
        """Append ascending positions below `size`, as the Golomb code of the gaps between them."""
        self.number(positions.size)
        if positions.size:
            code = golomb.encode(np.diff(positions, prepend=-1) - 1, golomb.modulus(positions.size, size))
            self.number(code.unary.size)
            self.codes(code.unary, 1)
            self.codes(code.short, code.width)
            self.codes(code.long, 1)


class Reader:
    """Takes the parts of a file in the order in which they were written."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data, self._at = data, at

    def raw(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            ValueError: the file ends before.
        """
        found = self._data[self._at : self._at + count]
        if len(found) != count:
            raise ValueError("the file is cut short")
        self._at += count
        return found

    def number(self) -> int:
        """See `Writer.number`."""
        value = shift = 0
        while True:
            (byte,) = self.raw(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def array(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """See `Writer.array`."""
        data = bytearray(self.raw(math.prod(shape) * dtype.itemsize))
        return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.zeros(shape, dtype=dtype)

    def codes(self, count: int, bits: int) -> Integers:
        """See `Writer.codes`."""
        return unpack(self.raw(packed_bytes(count, bits)), count, bits)

    def positions(self, size: int) -> Integers:
        """See `Writer.positions`."""
        count = self.number()
        if count == 0:
            return np.zeros(0, np.int64)
        modulus = golomb.modulus(count, size)
        unary = self.codes(self.number(), 1)
        short = self.codes(count, golomb.width(modulus))
        long = self.codes(golomb.long_codes(short, modulus), 1)
        gaps = golomb.decode(golomb.Code(unary, short, long, golomb.width(modulus)), modulus)
        return np.cumsum(gaps + 1) - 1
