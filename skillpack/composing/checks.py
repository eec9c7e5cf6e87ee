"""Checks of options that methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_share(method: str, option: str, value: float, *, zero: bool = False) -> None:
    """Refuse what is no share of something.

    Raises:
        UsageError: it is not above 0 (or 0, if that is allowed) and at most 1.
    """
    if not (0 < value <= 1 or (zero and value == 0)):
        raise UsageError(
            f"{method}: {option}={value:g} is not between 0 and 1",
            hint=f"Try --option {option}={'0.01' if zero else '0.2'}.",
        )


def check_choice(method: str, option: str, value: str, known: Sequence[str]) -> None:
    """Refuse what is none of the choices.

    Raises:
        UsageError: names the choices.
    """
    if value not in known:
        raise UsageError(f"{method}: {option}={value} is not known", hint=f"Write {option}={' or '.join(known)}.")
