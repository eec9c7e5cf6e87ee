"""The k-th largest magnitude of numbers that never are in memory together, exactly.

The bits of a non-negative fp32 number, read as an integer, are in the order of the numbers. So two passes suffice: the
first counts the upper 16 bits and tells in which of 65,536 bins the k-th is, the second counts the lower 15 bits of the
numbers in that bin. Nothing is sampled and nothing interpolated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from skillpack.composing.protocol import Deltas, Method, Weights
    from skillpack.tensors import Floats

Counts = npt.NDArray[np.int64]

_LOW: Final = 15
COARSE: Final = 1 << 16
FINE: Final = 1 << _LOW


def kept(elements: int, density: float) -> int:
    """How many of so many elements a density keeps; at least one."""
    return max(1, int(density * elements))


def coarse_counts(values: Floats) -> Counts:
    """How many magnitudes are in each bin."""
    return np.bincount(_patterns(values) >> _LOW, minlength=COARSE)


def fine_counts(values: Floats, chosen: int) -> Counts:
    """How many magnitudes of a bin have each of the lower patterns."""
    patterns = _patterns(values)
    return np.bincount(patterns[patterns >> _LOW == chosen] & (FINE - 1), minlength=FINE)


def place(counts: Counts, rank: int) -> tuple[int, int]:
    """The bin with the number of a rank, 1 being the largest, and its rank within the bin.

    >>> place(np.array([5, 2, 1]), 2), place(np.array([5, 2, 1]), 4)
    ((1, 1), (0, 1))
    """
    above = np.cumsum(counts[::-1])
    at = int(np.searchsorted(above, min(rank, int(above[-1]))))
    return len(counts) - 1 - at, rank - (int(above[at - 1]) if at else 0)


def number(coarse: int, fine: int) -> float:
    """The magnitude with these bits."""
    return float(np.uint32(coarse << _LOW | fine).view(np.float32))


def kth_largest(pieces: Callable[[], Iterable[Floats]], ranks: Sequence[int]) -> list[float]:
    """The magnitudes of these ranks among all numbers, 1 being the largest.

    Args:
        pieces: yields all numbers, anew at every call.
        ranks: from 1.
    """
    counts = np.zeros(COARSE, np.int64)
    for piece in pieces():
        counts += coarse_counts(piece)
    found = []
    for rank in ranks:
        chosen, within = place(counts, rank)
        below = np.zeros(FINE, np.int64)
        for piece in pieces():
            below += fine_counts(piece, chosen)
        found.append(number(chosen, place(below, within)[0]))
    return found


class QuantileSurvey:
    """Finds one magnitude for each skill over all tensors that it touches; see `skillpack.composing.protocol.Survey`.

    The first survey counts bins and settles into a method that asks for the second one.

    Args:
        skills: how many.
        density: share of the numbers that are at least as large as the one to be found.
        values: what is ranked: pieces of deltas -> pieces of numbers.
        settle: makes the method that knows the magnitudes.
        again: makes the method that knows the bins, with the bins and the ranks within them.
        bins: what the first survey found; None in the first one.
    """

    def __init__(
        self,
        skills: int,
        density: float,
        *,
        values: Callable[[list[Floats], Weights], Sequence[Floats]],
        settle: Callable[[tuple[float, ...]], Method],
        again: Callable[[tuple[tuple[int, int], ...]], Method],
        bins: tuple[tuple[int, int], ...] | None = None,
    ) -> None:
        self._density, self._values, self._settle, self._again, self._bins = density, values, settle, again, bins
        self._counts = np.zeros((skills, COARSE if bins is None else FINE), np.int64)

    def observe(self, name: str, deltas: Deltas, weights: Weights) -> None:
        """Count one tensor."""
        del name
        for _, pieces in deltas.pieces():
            for at, values in enumerate(self._values(pieces, weights)):
                if deltas.sources[at].touches:
                    self._counts[at] += (
                        coarse_counts(values) if self._bins is None else fine_counts(values, self._bins[at][0])
                    )

    def found(self) -> Mapping[str, npt.NDArray[Any]]:
        """See `Survey`."""
        return {"counts": self._counts}

    def restore(self, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Survey`."""
        self._counts = found["counts"].reshape(self._counts.shape).copy()

    def settled(self) -> Method:
        """See `Survey`."""
        if self._bins is None:
            return self._again(tuple(place(row, kept(int(row.sum()), self._density)) for row in self._counts))
        return self._settle(
            tuple(
                number(chosen, place(row, rank)[0])
                for row, (chosen, rank) in zip(self._counts, self._bins, strict=True)
            )
        )


def _patterns(values: Floats) -> npt.NDArray[np.uint32]:
    return np.abs(values.astype(np.float32, copy=False)).view(np.uint32)
