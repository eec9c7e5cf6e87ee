r"""Subtractive dither: rounding whose error is uniform noise, whatever is rounded, and half that of random rounding.

Both sides draw the same random offset for each number; what is coded is the integer next to number minus offset, what
is read is that integer plus the offset (Roberts, 1962; Schuchman, 1964). The error is uniform over one step and
independent of the number: unbiased, with a variance of step**2 / 12, where random rounding without a known offset has
up to step**2 / 6. Given the offset the integer is more predictable as well, and so it is coded in a context of its own
for each offset (entropy-coded dithered quantisation: Ziv, 1985; Zamir and Feder, 1992).

Offsets are the sixteen odd multiples of 1 / 32 between -1/2 and 1/2, so that all arithmetic is on integers. To be
unbiased between them numbers are first rounded at random to sixteenths.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import ChunkReader, Group
    from skillpack.codecs.noise import Noise, Seed
    from skillpack.codecs.tokens import Integers
    from skillpack.tensors import Floats

UNIT: Final = 32
"""Dithered numbers are whole multiples of 1 / UNIT."""
VARIANCE: Final = 1 / 12
"""Of the error, in squared steps."""
_FINE: Final = UNIT // 2
_KEYS: Final = 1 << 32
_SMOOTH: Final = 2
"""Half octaves of spread from which on integers are of so many steps that the offset hardly matters."""

Offsets = npt.NDArray[np.int8]
"""Odd numbers from 1 - UNIT / 2 to UNIT / 2 - 1, in units of 1 / UNIT."""


def gaussian_bits(spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bits that a dithered Gaussian takes, given the offset; close (5 %) to what is measured at any spread.

    Args:
        spread: standard deviation, in steps.
    """
    power = 1 + 4 * spread / (1 + 6 * spread) + 2 * math.pi * math.e * np.square(spread)
    return np.log2(power) / 2


def dither_key(seed: Seed) -> int:
    """The number that a manifest keeps for a reader to draw the same offsets."""
    return int.from_bytes(hashlib.sha256("\n".join(("dither", *seed.key)).encode()).digest()[:4], "little")


class Dither:
    """The offsets that belong to a key, one after another.

    Raises:
        ValueError: it is not a key.
    """

    def __init__(self, key: object) -> None:
        if type(key) is not int or not 0 <= key < _KEYS:
            raise ValueError(f"{key!a} is not the key of a dither")
        self._bits = np.random.Philox(key=key)

    @classmethod
    def announced(cls, parameters: Mapping[str, Any]) -> Dither | None:
        """The one that a part's parameters name; None if they name none.

        Raises:
            ValueError: what they name is not a key.
        """
        return cls(parameters["dither"]) if "dither" in parameters else None

    def take(self, count: int) -> Offsets:
        """The next offsets; the generator moves on by whole words of eight."""
        words = self._bits.random_raw(-(-count // 8)).astype("<u8", copy=False)
        offsets = words.view(np.int8)[:count] & np.int8(_FINE - 1)
        offsets *= 2
        offsets -= np.int8(_FINE - 1)
        return offsets


def dithered(values: Floats, offsets: Offsets, noise: Noise) -> npt.NDArray[np.int32]:
    """The integer next to each value minus its offset, values (in steps) being rounded to sixteenths at random."""
    # An even number of units less an odd one is never half way between two integers.
    units = 2 * noise.round(values * np.float32(_FINE)) - offsets
    return cast("npt.NDArray[np.int32]", (units + _FINE) // UNIT)


def is_fine(level: int) -> bool:
    """Whether integers that spread over 2**(level / 2) steps are so close that the offset matters to what is likely."""
    return level < _SMOOTH


def groups(context: str, symbols: Integers, offsets: Offsets, *, fine: bool) -> list[Group]:
    """What to code for dithered integers.

    Args:
        context: that they have in common.
        symbols: from `dithered`.
        offsets: of the symbols.
        fine: whether offsets make a difference to what integers are likely, as they do unless these spread over
            several steps; by symmetry it is only their magnitude then.
    """
    if not fine:
        return [(context, symbols)]
    folded = symbols * np.sign(offsets)
    return [(f"{context}.{phase}", folded[chosen]) for phase, chosen in _by_phase(offsets)]


def read_groups(reader: ChunkReader, context: str, offsets: Offsets, *, fine: bool) -> npt.NDArray[np.int64]:
    """The numbers that `groups` wrote, offsets included, in units of 1 / UNIT."""
    if not fine:
        return UNIT * reader.take(context, offsets.size).astype(np.int64) + offsets
    symbols = np.empty(offsets.size, np.int64)
    for phase, chosen in _by_phase(offsets):
        symbols[chosen] = reader.take(f"{context}.{phase}", chosen.size)
    return UNIT * symbols * np.sign(offsets) + offsets


def _by_phase(offsets: Offsets) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each magnitude of the offsets that occurs, numbered from 0, and the places where it does."""
    phases = np.abs(offsets) >> 1
    for phase in range(_FINE // 2):
        # Places are twice as fast as a mask.
        chosen = np.flatnonzero(phases == phase)
        if chosen.size:
            yield phase, chosen
