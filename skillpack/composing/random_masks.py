"""Random masks that depend on nothing but a seed, the tensor's name and the skill's content."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class RandomMask:
    """Entries that are kept with a probability each, one after the other in C order.

    A counter-based generator (Philox, Salmon et al. 2011) whose raw bits are the same with every numpy; so masks do not
    depend on the order of skills, on the number of workers, or on the pieces in which they are taken.
    """

    def __init__(self, seed: int, tensor: str, digest: str) -> None:
        key = hashlib.sha256("\n".join((str(seed), tensor, digest)).encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(key[:16], "little"))

    def take(self, count: int, density: float) -> npt.NDArray[np.bool_]:
        """The next entries. All calls but the last must ask for an even number of them."""
        words = self._bits.random_raw(-(-count // 2)).astype("<u8", copy=False)
        return words.view("<u4")[:count] < np.float64(density) * 2.0**32
