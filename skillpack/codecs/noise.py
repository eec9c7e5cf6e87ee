"""Random numbers for stochastic rounding: reproducible, and independent between tensors and between skills."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Seed:
    """Where noise starts.

    Attributes:
        key: texts that tell this tensor of this skill from all others.
    """

    key: tuple[str, ...]

    def noise(self) -> Noise:
        """The noise from its beginning; the same at every call."""
        return Noise(hashlib.sha256("\n".join(self.key).encode()).digest())


class Noise:
    """A counter-based generator (Philox, Salmon et al. 2011) whose raw bits are the same with every numpy."""

    def __init__(self, key: bytes) -> None:
        self._bits = np.random.Philox(key=int.from_bytes(key[:16], "little"))

    def uniform(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Numbers in (0, 1), fp32, evenly spaced at odd multiples of 2**-17."""
        count = math.prod(shape)
        words = self._bits.random_raw(-(-count // 4)).astype("<u8", copy=False)
        numbers = words.view("<u2")[:count].astype(np.float32)
        numbers += np.float32(0.5)
        numbers *= np.float32(2**-16)
        return numbers.reshape(shape)

    def round(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """Round to a neighbouring integer at random so that the mean is the value: unbiased, unlike nearest."""
        return np.floor(values + self.uniform(values.shape)).astype(np.int32)
