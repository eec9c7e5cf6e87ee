"""95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from recipes.measure import Scores, SpanishNumbers

RESAMPLES = 10_000

Interval = tuple[float, float]


def wilson(hits: int, count: int) -> Interval:
    """Wilson's interval of a share; also sound where all or none hit.

    >>> [round(end, 3) for end in wilson(343, 343)]
    [0.989, 1.0]
    """
    z = 1.959964
    share = hits / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (centre - spread) / (1 + z * z / count), (centre + spread) / (1 + z * z / count)


def bootstrap(measure: SpanishNumbers, scores: Scores, seed: int = 0) -> dict[str, Interval]:
    """Percentile intervals of mean KL, share of the gain kept and top-1 agreement.

    Whole answers are drawn again, since the tokens of one answer go together.

    Args:
        measure: what gave the scores.
        scores: of the model.
        seed: of the draws.
    """
    answers = int(measure.answer.max()) + 1
    counts = np.random.default_rng(seed).multinomial(answers, np.full(answers, 1 / answers), RESAMPLES)
    place = measure.answer.numpy()

    def total(values: torch.Tensor) -> npt.NDArray[np.float64]:
        return np.asarray(counts @ np.bincount(place, values.double().numpy(), answers), np.float64)

    tokens = counts @ np.bincount(place, minlength=answers)
    base, tuned, found = (total(nll) for nll in (measure.base.nll, measure.tuned.nll, scores.nll))
    return {
        "kl": _interval(total(scores.kl) / tokens),
        "kept": _interval((base - found) / (base - tuned)),
        "agreement": _interval(total(scores.agrees) / tokens),
    }


def _interval(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high
