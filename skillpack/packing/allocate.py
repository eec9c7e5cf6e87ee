"""One number decides everything: the step size, the square root of the multiplier between bytes and error.

To minimise bytes x multiplier + squared error, every coefficient of every tensor is quantised with the same step and a
tensor's codec is the one with the least sum. A target size is a search over that one number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skillpack.codecs.protocol import Cost

TOLERANCE: Final = 0.02
"""A search stops when a size is within this share below its target."""
_ROUNDS: Final = 16
_TYPICAL_SLOPE: Final = 1.4
"""d log size / d log step, with the sign changed, of typical packs; only a first guess."""
_TRUST: Final = 0.5
"""Share of a sensitivity's logarithm that is believed; in theory all of it, measured half is best."""
_RANGE: Final = 4.0
"""A tensor's step differs from the common one at most by this factor."""


class FinerStepNeededError(Exception):
    """A target asks for a finer step than the deltas were analysed for."""


def multiplier(step: float) -> float:
    """Squared error that one bit is worth at a step size.

    A uniform quantiser's error is step**2 / 12 and falls by a factor of 4 for each bit, so d error / d bits is
    2 ln 2 step**2 / 12.
    """
    return math.log(2) * step**2 / 6


def cheapest(costs: Sequence[Cost], step: float) -> int:
    """Index of the candidate with the least `total`."""
    return min(range(len(costs)), key=lambda index: total(costs[index], step))


def total(cost: Cost, step: float) -> float:
    """Squared error + multiplier x bits."""
    return cost.distortion + multiplier(step) * cost.bits


def fineness(sensitivity: Mapping[str, float]) -> dict[str, float]:
    """The step of each tensor as a share of the common one; their geometric mean is 1 but for the limits.

    Args:
        sensitivity: by the name of the tensor, see `skillpack.packing.metric`; all positive.
    """
    if not sensitivity:
        return {}
    middle = math.exp(sum(map(math.log, sensitivity.values())) / len(sensitivity))
    shares = {name: (value / middle) ** (-_TRUST / 2) for name, value in sensitivity.items()}
    return {name: min(_RANGE, max(1 / _RANGE, share)) for name, share in shares.items()}


def step_for_size(size_at: Callable[[float], float], target: int, start: float, finest: float) -> float:
    """The step at which a pack takes just under `target` bytes.

    Args:
        size_at: bytes that a pack with a given step takes; falls as the step grows.
        target: bytes.
        start: first step to try.
        finest: the deltas were analysed for no finer step than this.

    Raises:
        FinerStepNeededError: the answer may lie below `finest`.
        UsageError: no step makes the pack that small.
    """
    too_large: tuple[float, float] | None = None
    fitting: tuple[float, float] | None = None
    step = max(start, finest)
    for tried in range(_ROUNDS):
        size = size_at(step)
        if size > target:
            too_large = (step, size)
        else:
            fitting = (step, size)
            if size >= (1 - TOLERANCE) * target:
                return step
            if step <= finest:
                raise FinerStepNeededError
        step = max(finest, _next_step(too_large, fitting, (1 - TOLERANCE / 2) * target, (step, size), tried))
    if fitting is None:
        raise UsageError(
            f"a pack of {target:,} bytes is not possible: {size:,.0f} is the least found",
            hint="Ask for a larger --size.",
        )
    return fitting[0]


def _next_step(
    too_large: tuple[float, float] | None,
    fitting: tuple[float, float] | None,
    goal: float,
    last: tuple[float, float],
    tried: int,
) -> float:
    """Where log size, linear in log step between or beyond what was tried, meets the goal."""
    if too_large is None or fitting is None:
        # Ever further, since the curve may be flat: much of a size may not depend on the step.
        octaves = math.log2(last[1] / goal) * 2**tried / _TYPICAL_SLOPE
        return last[0] * 2.0 ** min(3.0, max(-3.0, octaves))
    (low, above), (high, below) = too_large, fitting
    if above <= below:
        return math.sqrt(low * high)
    share = math.log(above / goal) / math.log(above / below)
    # Keep clear of both ends, so that the interval shrinks even where the curve has a kink.
    return float(low * (high / low) ** min(0.95, max(0.05, share)))
