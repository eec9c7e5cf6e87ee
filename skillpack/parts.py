"""Parts of a whole, as users write them: ``1/5``."""

from __future__ import annotations

from skillpack.errors import UsageError
from skillpack_store.fsck import Subset

__all__ = ["parse_subset"]


def parse_subset(text: str) -> Subset:
    """Read a part of a whole, such as ``1/5``.

    >>> parse_subset("2/5")
    Subset(part=2, parts=5)

    Raises:
        UsageError: it is none.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise UsageError(f"{text!r} is no part of a whole", hint="Write 1/5, 2/5 and so on up to 5/5.")
    if not 1 <= int(part[:9]) <= int(parts[:9]) <= 1_000_000:
        raise UsageError(f"{text!r} is no part of a whole", hint="Write 1/5, 2/5 and so on up to 5/5.")
    return Subset(int(part), int(parts))
