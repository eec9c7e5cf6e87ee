"""Rounding towards zero: least squared error for each bit, but biased."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from skillpack.tensors import Floats


def toward_zero(values: Floats, width: float) -> npt.NDArray[np.int32]:
    """Integers next to values, magnitudes being rounded down where their fraction is less than `width`."""
    return (np.sign(values) * np.floor(np.abs(values) + np.float32(1 - width))).astype(np.int32)
