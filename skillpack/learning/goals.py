"""How large the skills of learned tasks may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import UsageError
from skillpack.packing.opening import checkpoint_bytes

if TYPE_CHECKING:
    from pathlib import Path

SHARE: Final = 0.02
"""Bytes of a skill in relation to the base's tensors, unless something else is asked for."""


def pack_goal(base: str | Path, size: int | None, share: float | None, quality: float | None) -> dict[str, Any]:
    """What `skillpack.pack` is to reach, as its arguments.

    Args:
        base: model folder or Hub id.
        size: bytes.
        share: bytes in relation to the base's tensors; `SHARE` if none of the three is given.
        quality: as for `skillpack.pack`.

    Raises:
        CheckpointError: the base cannot be opened.
        UsageError: more than one is given.
    """
    if sum(goal is not None for goal in (size, share, quality)) > 1:
        raise UsageError("size, share and quality exclude one another", hint="Give one of them.")
    if size is None and quality is None:
        size = round((SHARE if share is None else share) * checkpoint_bytes(open_checkpoint(base)))
    return {"size": size, "quality": quality}
