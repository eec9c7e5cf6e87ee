"""Trade-offs on demand: a model between skills, by preferences instead of by training.

Lu et al., "IBCL: Zero-shot Model Generation for Task Trade-offs in Continual Learning" (2023), make a model for any
preference over tasks as a convex combination of what was learned: here, sum of w[i] * delta[i] with w[i] >= 0 and
sum of w[i] = 1. There, what is combined are distributions of weights; here they are the skills themselves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOLERANCE: Final = 1e-6


def prefer(preferences: Mapping[str, float], name: str, **options: Any) -> Any:
    """Compose skills by preferences; nothing is trained.

    Args:
        preferences: address of a skill -> how much it is wanted; not below 0, and 1 together.
        name: of the skill that comes of it.
        options: of `skillpack.compose`: ``store``, ``branch``, ``size`` and others.

    Returns:
        What `skillpack.compose` returns.

    Raises:
        UsageError: the preferences are no convex combination.
        NotFoundError: there is no such skill.

    Example:
        >>> prefer({"math": 0.7, "code": 0.3}, "math-and-code")  # doctest: +SKIP
    """
    from skillpack.composing.skills import compose

    wanted = {address: weight for address, weight in check_preferences(preferences).items() if weight > 0}
    return compose(list(wanted), name, method="sum", weights=list(wanted.values()), **options)


def check_preferences(preferences: Mapping[str, float]) -> dict[str, float]:
    """The preferences, if they are a convex combination.

    >>> check_preferences({"math": 0.7, "code": 0.3})
    {'math': 0.7, 'code': 0.3}

    Raises:
        UsageError: there is none, one is below 0 or no number, or they do not add up to 1.
    """
    wrong = [address for address, weight in preferences.items() if not (math.isfinite(weight) and weight >= 0)]
    if wrong:
        raise UsageError(f"a preference is a number from 0 to 1; that of {listing(wrong)} is not")
    total = math.fsum(preferences.values())
    if abs(total - 1) > _TOLERANCE:
        shares = ",".join(f"{address}={weight / total:.3g}" for address, weight in preferences.items()) if total else ""
        raise UsageError(
            f"preferences add up to {total:g}, not to 1",
            hint=f"In the same relation: {shares}." if shares else "Such as math=0.7,code=0.3.",
        )
    return dict(preferences)


def parse_preferences(text: str) -> dict[str, float]:
    """Read preferences as they are typed.

    >>> parse_preferences("math@2=0.7, code=0.3")
    {'math@2': 0.7, 'code': 0.3}

    Raises:
        UsageError: they are malformed, or no convex combination.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        address, sign, weight = (piece.strip() for piece in part.rpartition("="))
        try:
            value = float(weight)
        except ValueError:
            value = math.nan
        if not sign or not address or math.isnan(value):
            raise UsageError(f"{part.strip()!a} is no preference", hint="Write math=0.7,code=0.3.")
        if address in found:
            raise UsageError(f"{address} has two preferences", hint="Name each skill once.")
        found[address] = value
    return check_preferences(found)
