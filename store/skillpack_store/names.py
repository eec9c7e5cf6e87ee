"""What to tell a user who asked for a name that is not there."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["choices"]

_SHOWN = 20


def choices(wanted: str, existing: Iterable[str], kind: str) -> str:
    """Return a sentence with the names that are close to ``wanted``, and one with those that exist.

    >>> choices("maht", ["code", "math"], "skill")
    'Did you mean math? Every skill there is: code, math.'
    >>> choices("math", [], "tag")
    'There is no tag yet.'
    """
    names = sorted(existing)
    if not names:
        return f"There is no {kind} yet."
    close = difflib.get_close_matches(wanted, names, n=3)
    guess = f"Did you mean {' or '.join(close)}? " if close else ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{guess}Every {kind} there is: {', '.join(names[:_SHOWN])}{more}."
