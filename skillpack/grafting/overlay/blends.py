"""Weights as a choice of skills makes them, beside the base's: computed when first used, the latest ones kept."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Key = tuple[str, tuple[tuple[str, float], ...]]
"""Name of a tensor, and digest and weight of each skill that changes it."""


class Blends:
    """Blended weights that are kept, those that were not used for longest given up first.

    Args:
        limit: bytes that they may take together; a single larger one is computed anew each time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[Key, torch.Tensor] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(tensor.nbytes for tensor in self._kept.values())

    def get(self, key: Key) -> torch.Tensor | None:
        """A kept tensor, which was used now."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Key, tensor: torch.Tensor) -> None:
        """Keep a tensor."""
        self._kept[key] = tensor
        self._kept.move_to_end(key)
        while self._kept and self.nbytes > self.limit:
            self._kept.popitem(last=False)

    def drop(self, digest: str) -> None:
        """Give up all that a skill has part in."""
        for key in [key for key in self._kept if any(digest == skill for skill, _ in key[1])]:
            del self._kept[key]


@dataclass(eq=False)
class Blend:
    """One weight as a choice of skills makes it.

    Attributes:
        key: see `Key`.
        compute: makes it, in the dtype of the live weight; raises what decoding does.
        kept: where it is kept; None if it is held here, for as long as its skill is loaded.
        held: it, if it is held here.
    """

    key: Key
    compute: Callable[[], torch.Tensor]
    kept: Blends | None
    held: torch.Tensor | None = None

    def get(self, like: torch.Tensor) -> torch.Tensor:
        """The weight, where and in the dtype in which a model's weight is now."""
        held = self.held
        if held is not None and held.device == like.device and held.dtype == like.dtype:
            return held
        return self._made(like)

    # A compiled model leaves its graph for this, rather than computing weights within it.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _made(self, like: torch.Tensor) -> torch.Tensor:
        found = self.held if self.kept is None else self.kept.get(self.key)
        # It is kept for passes that are differentiated, too.
        with torch.inference_mode(False), torch.no_grad():
            found = self.compute() if found is None else found
            found = found.to(like.device, like.dtype)
        if self.kept is None:
            self.held = found
        else:
            self.kept.put(self.key, found)
        return found

    @property
    def nbytes(self) -> int:
        """Memory in bytes of what is held here."""
        return 0 if self.held is None else self.held.nbytes
