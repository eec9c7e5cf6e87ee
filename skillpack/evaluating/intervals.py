"""95 % bootstrap intervals that draw whole samples again, since the tokens of one sample go together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]

RESAMPLES: Final = 10_000
_AT_ONCE: Final = 1 << 22
"""Counts of drawn samples that are in memory at a time."""

Interval = tuple[float, float]


def resampled_totals(
    sample: npt.NDArray[np.int64], columns: Mapping[str, npt.NDArray[np.generic]], seed: int = 0
) -> dict[str, Doubles]:
    """Totals of columns over samples that are drawn again with replacement (Efron, 1979, doi:10.1214/aos/1176344552).

    Args:
        sample: which sample each value belongs to, of shape (values,); numbered without gaps or with, which are not
            drawn.
        columns: name -> numbers of shape (values,).
        seed: of the draws.

    Returns:
        Name -> the totals of each of `RESAMPLES` draws; and "count", how many values were drawn.
    """
    present, place = np.unique(sample, return_inverse=True)
    number = len(present)
    sums = {name: np.bincount(place, np.asarray(values, np.float64), number) for name, values in columns.items()}
    sums["count"] = np.bincount(place, minlength=number).astype(np.float64)
    table = np.stack(list(sums.values()), axis=1)
    draws, share = np.random.default_rng(seed), np.full(number, 1 / number)
    step = max(1, _AT_ONCE // number)
    pieces = [
        draws.multinomial(number, share, min(step, RESAMPLES - start)) @ table for start in range(0, RESAMPLES, step)
    ]
    return dict(zip(sums, np.concatenate(pieces).T, strict=True))


def percentile_interval(values: Doubles) -> Interval:
    """From the 2.5th to the 97.5th percentile of resampled values.

    >>> percentile_interval(np.arange(1001.0))
    (25.0, 975.0)
    """
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high
