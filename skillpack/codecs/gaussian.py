"""The least bits that any code needs for Gaussian coefficients: the rate-distortion function by reverse water-filling.

Cover and Thomas, Elements of Information Theory (2006), theorem 10.3.3: independent Gaussians of variances v need at
least the sum of max(0, 1/2 log2(v / level)) bits where the mean squared error is the sum of min(v, level).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skillpack.tensors import Doubles

_PER_OCTAVE: Final = 4
"""Variances are told apart to a quarter of an octave; within one the mean is taken."""
_ROUNDS: Final = 80


class Source(NamedTuple):
    """Independent Gaussian coefficients of mean zero, in groups of one variance; all of that is known to both sides.

    Attributes:
        variances: of each group, float64, in squared units of the delta.
        counts: number of coefficients in each group, float64.
    """

    variances: Doubles
    counts: Doubles

    @property
    def energy(self) -> float:
        """Sum of all variances: the squared error of sending nothing."""
        return float(self.variances @ self.counts)


def product_source(energy: float, profiles: Iterable[npt.NDArray[np.floating[Any]]]) -> Source:
    """Coefficients of a tensor of which it is known how its energy spreads along each axis, and no more than that.

    The shares along the axes are taken to be independent, so that the coefficients have a Kronecker covariance. Of all
    Gaussians with these shares it is the one that spreads its energy the most evenly.

    Args:
        energy: squared Frobenius norm of the tensor.
        profiles: squared norms of the slices along each axis, in any unit.
    """
    variances, counts = np.full(1, energy), np.ones(1)
    for profile in profiles:
        shares = profile / max(float(profile.sum(dtype=np.float64)), np.finfo(np.float64).tiny)
        variances, counts = _classes(
            np.multiply.outer(variances, shares.astype(np.float64)).reshape(-1), np.repeat(counts, profile.size)
        )
    return Source(variances, counts)


def least_bits(source: Source, distortion: float) -> float:
    """Bits that any code needs on average for a source.

    Args:
        source: what is coded.
        distortion: squared error, summed over all coefficients, that it may leave.

    Returns:
        0 where sending nothing is good enough, infinity for no error at all.

    >>> round(least_bits(Source(np.array([4.0]), np.array([10.0])), 10.0), 9)  # a quarter of the variance: a bit each
    10.0
    """
    variances, counts = source
    if distortion >= source.energy:
        return 0.0
    if distortion <= 0:
        return math.inf
    low, high = distortion / float(counts.sum()), float(variances.max())
    for _ in range(_ROUNDS):
        level = math.sqrt(low) * math.sqrt(high)
        if float(np.minimum(variances, level) @ counts) > distortion:
            high = level
        else:
            low = level
    return float(np.log2(np.maximum(variances / high, 1.0)) @ counts) / 2


def _classes(variances: Doubles, counts: Doubles) -> tuple[Doubles, Doubles]:
    """Groups of like variance, each with the mean of what it holds; what is zero is left out."""
    some = variances > 0
    variances, counts = variances[some], counts[some]
    _, places = np.unique(np.rint(_PER_OCTAVE * np.log2(variances)), return_inverse=True)
    number = np.bincount(places, counts).astype(np.float64)
    return np.bincount(places, variances * counts) / number, number
