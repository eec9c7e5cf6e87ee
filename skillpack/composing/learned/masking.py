"""A method that multiplies what is composed with a factor for each entry, one that was learned before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skillpack.composing.elementwise import empty, weighted_sum

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Masked:
    """The weighted sum, entry by entry times a mask that all skills share.

    Attributes:
        mask: SHA-256 of the mask, hex, so that another mask is another recipe.
        factors: tensor of the base -> factors of its shape, bool or floating-point; others are left alone.
    """

    name: ClassVar[str] = "masked"
    ordered: ClassVar[bool] = False

    mask: str
    factors: Mapping[str, npt.NDArray[Any]] = field(repr=False, compare=False, metadata={"recipe": False})

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `skillpack.composing.protocol.Method`."""
        factors = self.factors.get(name)
        result = empty(deltas.shape)
        flat = result.reshape(-1)
        for span, pieces in deltas.pieces():
            flat[span] = weighted_sum(pieces, weights)
            if factors is not None:
                flat[span] *= factors.reshape(-1)[span].astype(np.float32)
        return result


def mask_digest(factors: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 over names and contents, hex."""
    found = hashlib.sha256()
    for name in sorted(factors):
        found.update(f"{name} {factors[name].dtype}\n".encode())
        found.update(np.ascontiguousarray(factors[name]).data)
    return found.hexdigest()
