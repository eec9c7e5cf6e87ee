"""95 % intervals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skillpack.evaluating.intervals import Interval, percentile_interval, resampled_totals

if TYPE_CHECKING:
    from recipes.measure import HeldOut, Scores


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


def bootstrap(measure: HeldOut, scores: Scores, seed: int = 0) -> dict[str, Interval]:
    """Percentile intervals of mean KL, share of the gain kept and top-1 agreement.

    Whole answers are drawn again, since the tokens of one answer go together.

    Args:
        measure: what gave the scores.
        scores: of the model.
        seed: of the draws.
    """
    columns = {"kl": scores.kl, "agrees": scores.agrees, "found": scores.nll}
    columns |= {"base": measure.base.nll, "tuned": measure.tuned.nll}
    totals = resampled_totals(measure.answer.numpy(), {name: found.numpy() for name, found in columns.items()}, seed)
    base, tuned, found, tokens = (totals[name] for name in ("base", "tuned", "found", "count"))
    return {
        "kl": percentile_interval(totals["kl"] / tokens),
        "kept": percentile_interval((base - found) / (base - tuned)),
        "agreement": percentile_interval(totals["agrees"] / tokens),
    }
