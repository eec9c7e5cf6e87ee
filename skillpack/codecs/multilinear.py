"""Tensors multiplied along their axes: directions and projections for packing, exact products for decoding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from skillpack.codecs.gram import principal
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.tensors import Doubles, Floats

_BLOCK: Final = 1 << 20
"""Elements that are worked on at a time."""
_EXACT_BITS: Final = 52


def directions(tensor: Floats, axis: int, device: str = "cpu") -> tuple[Doubles, Doubles]:
    """Norms, descending, and orthonormal directions of a tensor's slices along an axis.

    This is one axis of the higher-order singular value decomposition (De Lathauwer et al. 2000), from the Gram matrix:
    see `skillpack.codecs.gram.principal`.

    Args:
        tensor: fp32; may be a memory map and is read in blocks.
        axis: of `length` slices.
        device: torch device that does the work.

    Returns:
        fp64 of shapes (length,) and (length, length), directions being columns.
    """
    view = _around(tensor, axis)
    blocks = (
        np.moveaxis(view[depth, :, width], 1, 2).reshape(-1, view.shape[1]) for depth, width in _tiles(*view.shape)
    )
    return principal(blocks, view.shape[1], device)


def projected(tensor: Floats, factors: Mapping[int, Floats]) -> Floats:
    """A tensor in the coordinates of some axes' factors, which are orthonormal and of shape (length, rank).

    Called again with the same tensor it gives the same bits, as long as torch keeps its number of threads.
    """
    import tensorly
    import torch
    from tensorly.tenalg import multi_mode_dot

    # Copied to where torch puts its own: the order in which sums are taken may depend on where in memory things are.
    own = {axis: torch.from_numpy(np.ascontiguousarray(factor)).clone() for axis, factor in factors.items()}
    first = own.pop(0, None)
    part = torch.empty([own[axis].shape[1] if axis in own else length for axis, length in enumerate(tensor.shape)])
    size = max(1, _BLOCK // math.prod(tensor.shape[1:]))
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        for at in range(0, tensor.shape[0], size):
            block = torch.from_numpy(np.array(tensor[at : at + size])).clone()
            part[at : at + size] = multi_mode_dot(block, [*own.values()], modes=[*own], transpose=True)
        result: Floats = (part if first is None else multi_mode_dot(part, [first], modes=[0], transpose=True)).numpy()
    return result


def multiplied(values: Doubles, factors: Mapping[int, Doubles], gains: Mapping[int, Doubles], scale: float) -> Floats:
    """The product of a core of integers with factors of integers, to the same bits on every machine.

    Before each product, what is there is multiplied with `gains` and rounded to integers with as many bits as are left
    for sums below 2**52, which float64 adds without rounding in any order.

    Args:
        values: the core, integers as contiguous fp64; changed in place.
        factors: integers as fp64, of shape (length, rank), by axis, ascending; not empty.
        gains: what to multiply each slice along an axis with; fp64 of shape (rank,), at least 1.
        scale: of the result.

    Raises:
        DamagedSkillError: a factor is so large that nothing would be left for the core.
    """
    exponent, last = 0, max(factors)
    for axis, factor in factors.items():
        shape = (*values.shape[:axis], len(factor), *values.shape[axis + 1 :])
        view = _around(values, axis)
        view *= gains[axis][:, None]
        # A sum is at most the greatest value times the greatest sum of a row's magnitudes.
        peak = math.frexp(max(float(view.max()), -float(view.min())))[1]
        rows = math.frexp(float(np.abs(factor).sum(axis=1).max()))[1]
        if rows >= _EXACT_BITS:
            raise DamagedSkillError("the products of a Tucker part are too large to be added exactly")
        view = np.rint(np.ldexp(view, _EXACT_BITS - rows - peak, out=view), out=view)
        exponent += peak + rows - _EXACT_BITS
        if axis == last:
            return _product(factor, view, math.ldexp(scale, exponent), np.float32).reshape(shape)
        values = _product(factor, view, 1.0, np.float64).reshape(shape)
    raise ValueError("a product without factors")


def _product(factor: Doubles, view: Doubles, scale: float, dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    result = np.empty((view.shape[0], len(factor), view.shape[2]), dtype)
    for depth, width in _tiles(view.shape[0], max(factor.shape), view.shape[2]):
        # A hostile scale may overflow to infinity, which harms nobody.
        with np.errstate(over="ignore"):
            result[depth, :, width] = (factor @ view[depth, :, width]) * scale
    return result


def _around(tensor: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """The axes before one, this one, and the axes after it."""
    return tensor.reshape(math.prod(tensor.shape[:axis]), tensor.shape[axis], math.prod(tensor.shape[axis + 1 :]))


def _tiles(before: int, length: int, after: int) -> Iterator[tuple[slice, slice]]:
    """Slices along the first and the last of three axes that cover both, block by block."""
    width = max(1, min(after, _BLOCK // length))
    depth = max(1, _BLOCK // (length * width))
    for first in range(0, before, depth):
        for start in range(0, after, width):
            yield slice(first, first + depth), slice(start, start + width)
