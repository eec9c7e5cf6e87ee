"""Weights of skills that were on a model lately, so that swapping back to them is copying."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from skillpack.grafting.planning import Content


class WeightCache:
    """Tensors by their content's identity; those that were not used for longest go first.

    Args:
        limit: most bytes to hold.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[tuple[Content, torch.dtype], torch.Tensor] = {}

    @property
    def size(self) -> int:
        """Bytes that are held. Counted anew each time, so that no interrupt can leave a wrong sum."""
        return sum(values.nbytes for values in self._kept.values())

    def get(self, content: Content, dtype: torch.dtype, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What has this content, computed if it is not here; kept if it is not larger than the limit."""
        key = content, dtype
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
            return found
        found = compute()
        if found.nbytes <= self.limit:
            self._kept[key] = found
            excess = self.size - self.limit
            while excess > 0:
                excess -= self._kept.pop(next(iter(self._kept))).nbytes
        return found
