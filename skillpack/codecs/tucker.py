r"""Tucker: a core, and factors along some axes of a tensor with three or four; every coefficient with one step.

The delta is the product of a core with orthonormal factors (partial Tucker decomposition). What low rank on a folded
matrix has to repeat for every expert or every position of a kernel is here said once; and axes along which nothing can
be left out need no factor. Which axes have one, and how many of its directions are kept, follows from the step.

An error in a factor's entry is as large in the delta as that error times the norm of the core's slice that the column
is multiplied with; so a column's step is `step` divided by that norm. Rounding is dithered, so that what is decoded is
unbiased, but for the weakest entries of the core: those are rounded at random, which is as unbiased and leaves nearly
all of them zero. A slice's class is log2(norm / step) in half octaves. It fixes the scale of its column and, taken
together along all axes, the context of the core's entries. Decoding gives the same bits on every machine: see
`multiplied`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from skillpack.codecs.dither import (
    UNIT,
    VARIANCE,
    Dither,
    dither_key,
    dithered,
    gaussian_bits,
    groups,
    is_fine,
    read_groups,
)
from skillpack.codecs.gaussian import Source, product_source
from skillpack.codecs.multilinear import directions, multiplied, projected
from skillpack.codecs.protocol import DELTA, Analysis, Encoding, Layout, Parameters
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.codecs.entropy import Chunk, ChunkReader, Group
    from skillpack.codecs.noise import Noise, Seed
    from skillpack.tensors import Doubles, Floats, Tensor

_BLOCK: Final = 1 << 20
"""Elements of a core that are worked on at a time."""
_MAX_CLASS: Final = 80
_MAX_SCALE: Final = 10_000
_MAX_OUTER: Final = 2.0**200
_LEVELS: Final = (-8, 40)
"""Contexts of the core below and above these are not told apart."""
_DITHERED: Final = -3
"""Level of the core from which on dither makes less of error and bits together than rounding at random."""
_FINEST: Final = 2.0**-20
"""Smallest step relative to the norm of the delta; exact products have 26 bits and more beyond it."""
_BIT: Final = math.log(2) / 6
"""What a bit may cost, in squared steps, when axes are chosen: see `packing.allocate.multiplier`."""


@dataclass(frozen=True)
class Tucker:
    """The Tucker codec.

    Attributes:
        keep: slices are kept while their norm exceeds `keep` times step times (number of elements)**(1/4), the unit
            that columns of `LowRank` are measured in.
        device: torch device that analyses; encoding and decoding need none.
        name: the codec's name in a manifest.
    """

    keep: float = 0.3
    device: str = "cpu"
    name: str = "tucker"

    def analyse(self, delta: Floats, finest: float) -> Analysis:
        """The delta, the norms of its slices, and the directions that `finest` would keep.

        Args:
            delta: fp32 of a shape that `tensor_shape` gives; may be a memory map and is read in blocks.
            finest: no step size below this one will be asked for.
        """
        found: dict[str, npt.NDArray[np.float32]] = {DELTA: delta}
        for axis in range(delta.ndim):
            norms, vectors = directions(delta, axis, self.device)
            found[f"norms{axis}"] = norms.astype(np.float32)
            least = self._threshold(delta.shape, max(finest, _finest(found["norms0"])))
            # Compared as encoding does it, so that both keep the same.
            kept = found[f"norms{axis}"].astype(np.float64) > least
            found[f"factor{axis}"] = vectors[:, kept].astype(np.float32)
        return found

    def encode(self, analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """See `LossyCodec`; distortion is the expected noise, products of noise included, plus the energy left out."""
        delta = analysis[DELTA]
        norms = [analysis[f"norms{axis}"].astype(np.float64) for axis in range(delta.ndim)]
        step = max(step, _finest(norms[0]))
        energy = float(np.square(norms[0]).sum())
        least = self._threshold(delta.shape, step)
        axes = _best_axes(delta.shape, [values / step for values in norms], least / step)
        if not axes:
            return Encoding({"axes": []}, lambda: iter(()), energy)
        kept = {axis: norms[axis][norms[axis] > least] for axis in axes}
        parameters = _parameters(delta.shape, kept, step, energy)
        # Offsets take bits that the finest steps need for themselves.
        if step >= UNIT * _finest(norms[0]):
            parameters |= {"outer": parameters["outer"] / UNIT ** (1 + len(axes)), "dither": dither_key(seed)}
        factors = {axis: analysis[f"factor{axis}"][:, : kept[axis].size] for axis in axes}
        gains = {
            axis: (np.exp2(top / 2) / _growth(counts)).astype(np.float32)
            for axis, top, counts in zip(axes, parameters["tops"], parameters["slices"], strict=True)
        }
        core = projected(delta, factors)

        def chunks() -> Iterator[Chunk]:
            noise, dither = seed.noise(), Dither.announced(parameters)
            scaled = ((axis, factors[axis] * gains[axis]) for axis in axes)
            yield [
                group for axis, factor in scaled for group in _factor_groups(parameters, axis, factor, noise, dither)
            ]
            for block, levels in _core_blocks(parameters, delta.shape):
                yield list(_core_groups(levels, _in_steps(core[block], step), noise, dither))

        left_out = max(0.0, energy - sum(float(np.square(part, dtype=np.float64).sum()) for part in core))
        return Encoding(parameters, chunks, _noise(parameters, core, factors, gains, step) + left_out)

    def source(self, analysis: Analysis) -> Source:
        """See `LossyCodec`: the entries of the core of all directions, whose energies along each axis are known.

        The directions along all axes cost nothing.
        """
        axes = range(analysis[DELTA].ndim)
        squares = [np.square(analysis[f"norms{axis}"], dtype=np.float64) for axis in axes]
        return product_source(float(squares[0].sum()), squares)

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`."""
        del reference
        shape = tensor_shape(layout.shape)
        if shape is None:
            raise DamagedSkillError(f"a Tucker part of a tensor of shape {layout.shape}")
        if not parameters["axes"]:
            return np.zeros(layout.shape, np.float32)
        _check_parameters(parameters, shape)
        dither = Dither.announced(parameters)
        factors = _read_factors(next(chunks), parameters, shape, dither)
        gains = {axis: _growth(counts) for axis, counts in zip(factors, parameters["slices"], strict=True)}
        # The core is only referred to there, so that it goes when it has been multiplied.
        delta = multiplied(_read_core(chunks, parameters, shape, dither), factors, gains, float(parameters["outer"]))
        return delta.reshape(layout.shape)

    def _threshold(self, shape: tuple[int, ...], step: float) -> float:
        return self.keep * step * float(math.prod(shape)) ** 0.25


def tensor_shape(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What this codec sees of a tensor: its axes longer than 1; None if it has nothing to offer for that shape.

    An axis longer than all others together has no more directions than these have elements; its factor alone would be
    as large as the tensor.

    >>> tensor_shape((8, 64, 32)), tensor_shape((1, 64, 32, 3, 3)), tensor_shape((64, 32)), tensor_shape((64, 2, 2))
    ((8, 64, 32), (64, 32, 3, 3), None, None)
    """
    long = tuple(length for length in shape if length > 1)
    return long if len(long) in {3, 4} and max(long) ** 2 <= math.prod(shape) else None


def ranks(parameters: Mapping[str, Any]) -> tuple[int, ...]:
    """Number of directions that a Tucker part keeps along each axis with a factor; empty if it keeps nothing."""
    return tuple(int(sum(counts)) for counts in parameters["slices"]) if parameters["axes"] else ()


def _best_axes(shape: tuple[int, ...], norms: Sequence[Doubles], least: float) -> tuple[int, ...]:
    """The axes whose factors lead to the least expected error plus bits, by `_predicted_cost`; empty for none at all.

    Args:
        shape: of the delta.
        norms: of its slices along each axis, in steps, descending.
        least: slices with smaller norms are left out.
    """
    usable = [axis for axis, values in enumerate(norms) if values[0] > least]
    choices = [axes for size in range(1, len(shape) + 1) for axes in combinations(usable, size)]
    costs = [_predicted_cost(shape, norms, axes, least) for axes in choices]
    return min(zip(costs, choices, strict=True), default=(0.0, ()))[1]


def _predicted_cost(shape: tuple[int, ...], norms: Sequence[Doubles], axes: tuple[int, ...], least: float) -> float:
    """Expected squared error, in squared steps, plus what the bits are worth, were all coefficients Gaussian.

    The energy is taken to be that of even noise, as the weakest slices show it, and beyond that to spread over the core
    as if its shares along the axes were independent.
    """
    size, energy = math.prod(shape), float(np.square(norms[0]).sum())
    floor = min(values[-1] ** 2 * length for values, length in zip(norms, shape, strict=True)) / size
    excess = max(energy - floor * size, 1e-9 * energy)
    bits, counts, squares, growth = 0.0, np.ones(1), np.full(1, excess), np.ones(1)
    for axis, length in enumerate(shape):
        number, shares, noise = np.array([length]), np.array([1 / length]), np.ones(1)
        if axis in axes:
            kept = norms[axis][norms[axis] > least]
            _, places, number = np.unique(np.rint(4 * np.log2(kept)), return_inverse=True, return_counts=True)
            means = np.bincount(places, np.square(kept)) / number
            shares = np.maximum(means - floor * size / length, 0) / excess
            spread = np.sqrt(means / length)
            bits += length * float(number @ gaussian_bits(spread))
            noise = 1 + length * VARIANCE / means
        counts, squares, growth = (
            np.multiply.outer(old, new).reshape(-1)
            for old, new in ((counts, number), (squares, shares), (growth, noise))
        )
    squares += floor
    spread = np.sqrt(squares)
    bits += float(counts @ _core_bits(spread))
    noisy = float(counts @ ((squares + _core_noise(spread)) * growth - squares))
    return noisy + max(0.0, energy - float(counts @ squares)) + _BIT * bits


def _core_bits(spread: Doubles) -> Doubles:
    """Close to the entropy of a rounded Gaussian of the core, at every standard deviation in steps."""
    at_random = np.log2(1 + math.sqrt(2 * math.pi * math.e) * spread)
    return np.where(spread < 2.0**_DITHERED, at_random, gaussian_bits(spread))


def _core_noise(spread: Doubles) -> Doubles:
    """Close to the variance of that rounding; at random it is the mean magnitude of what is small."""
    at_random = 1 / (6 + math.sqrt(math.pi / 2) / np.maximum(spread, 1e-300))
    return np.where(spread < 2.0**_DITHERED, at_random, VARIANCE)


def _parameters(shape: tuple[int, ...], kept: Mapping[int, Doubles], step: float, energy: float) -> Parameters:
    classes = [np.rint(2 * np.log2(norms / step)).astype(np.int64) for norms in kept.values()]
    tops = [int(levels[0]) for levels in classes]
    # The level of the strongest entries, were the energy even along axes without a factor.
    rest = math.prod(length for axis, length in enumerate(shape) if axis not in kept)
    level = sum(tops) - (len(tops) - 1) * math.log2(energy / step**2) - math.log2(rest)
    return {
        "outer": step * 2.0 ** (-sum(tops) / 2),
        "level": round(level),
        "axes": list(kept),
        "tops": tops,
        "slices": [np.bincount(top - levels).tolist() for top, levels in zip(tops, classes, strict=True)],
    }


def _finest(norms: npt.NDArray[np.floating[Any]]) -> float:
    return max(_FINEST * math.sqrt(float(np.square(norms, dtype=np.float64).sum())), float(np.finfo(np.float64).tiny))


def _below(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """How many half octaves each slice's class is under the top one."""
    return np.repeat(np.arange(len(counts)), counts)


def _growth(counts: Sequence[int]) -> Doubles:
    """2**(below / 2) of each slice: a power of two, or one times the float64 that is next to the square root of two."""
    below = _below(counts)
    return np.ldexp(np.where(below % 2, math.sqrt(2), 1.0), below // 2)


def _runs(parameters: Mapping[str, Any], axis: int, length: int) -> Iterator[tuple[str, slice, bool]]:
    """Context and columns of each class of a factor, and whether offsets matter to it.

    Columns of one spread are alike whatever codec they are of.
    """
    place = parameters["axes"].index(axis)
    top, ends = parameters["tops"][place], np.cumsum([0, *parameters["slices"][place]]).tolist()
    for below, (first, last) in enumerate(pairwise(ends)):
        if first < last:
            level = top - below - round(math.log2(length))
            yield f"lowrank.{level}", slice(first, last), is_fine(level)


def _of_level(dither: Dither | None, level: int) -> Dither | None:
    return dither if level >= _DITHERED else None


def _rounded(context: str, values: Floats, noise: Noise, dither: Dither | None, *, fine: bool) -> list[Group]:
    """What to code for values in steps, 1-D."""
    if dither is None:
        return [(context, noise.round(values))]
    offsets = dither.take(values.size)
    return groups(context, dithered(values, offsets, noise), offsets, fine=fine)


def _factor_groups(
    parameters: Parameters, axis: int, factor: Floats, noise: Noise, dither: Dither | None
) -> Iterator[Group]:
    for context, columns, fine in _runs(parameters, axis, len(factor)):
        yield from _rounded(context, factor[:, columns].T.reshape(-1), noise, dither, fine=fine)


def _core_groups(levels: npt.NDArray[np.int64], values: Floats, noise: Noise, dither: Dither | None) -> Iterator[Group]:
    for level in np.unique(levels).tolist():
        chosen, fine = values[levels == level], is_fine(2 * level)
        yield from _rounded(f"tucker.{level}", chosen, noise, _of_level(dither, level), fine=fine)


def _read(
    reader: ChunkReader, context: str, count: int, unit: int, dither: Dither | None, *, fine: bool
) -> npt.NDArray[np.int64]:
    """What `_rounded` wrote, in shares of a step: `unit` of them make one."""
    if dither is None:
        return unit * reader.take(context, count).astype(np.int64)
    return read_groups(reader, context, dither.take(count), fine=fine)


def _unit(dither: Dither | None) -> int:
    return 1 if dither is None else UNIT


def _read_factors(
    reader: ChunkReader, parameters: Mapping[str, Any], shape: tuple[int, ...], dither: Dither | None
) -> dict[int, Doubles]:
    factors = {}
    for axis, rank in zip(parameters["axes"], ranks(parameters), strict=True):
        factors[axis] = np.empty((shape[axis], rank), np.float64)
        for context, columns, fine in _runs(parameters, axis, shape[axis]):
            width = columns.stop - columns.start
            units = _read(reader, context, shape[axis] * width, _unit(dither), dither, fine=fine)
            factors[axis][:, columns] = units.reshape(width, shape[axis]).T
    reader.finish()
    return factors


def _read_core(
    chunks: Iterator[ChunkReader], parameters: Mapping[str, Any], shape: tuple[int, ...], dither: Dither | None
) -> Doubles:
    kept = dict(zip(parameters["axes"], ranks(parameters), strict=True))
    core = np.empty([kept.get(axis, length) for axis, length in enumerate(shape)])
    for block, levels in _core_blocks(parameters, shape):
        reader = next(chunks)
        for level in np.unique(levels).tolist():
            chosen, offsets = levels == level, _of_level(dither, level)
            core[block][chosen] = _read(
                reader, f"tucker.{level}", int(chosen.sum()), _unit(dither), offsets, fine=is_fine(2 * level)
            )
        reader.finish()
    return core


def _core_blocks(
    parameters: Mapping[str, Any], shape: tuple[int, ...]
) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
    """Slices of the core along its first axis, and the level of each entry: log2 of the spread to expect, in steps."""
    counts = dict(zip(parameters["axes"], parameters["slices"], strict=True))
    first, *others = (_below(counts.get(axis, [length])) for axis, length in enumerate(shape))
    rest = sum(np.ix_(*others), start=np.zeros((1,) * len(others), np.int64))
    size = max(1, _BLOCK // rest.size)
    for at in range(0, first.size, size):
        below = first[at : at + size].reshape(-1, *[1] * len(others)) + rest
        yield slice(at, at + size), np.clip((parameters["level"] - below) // 2, *_LEVELS)


def _noise(
    parameters: Parameters, core: Floats, factors: Mapping[int, Floats], gains: Mapping[int, Floats], step: float
) -> float:
    """Expected squared error of rounding.

    Rounding errors are independent and zero on average. So the energy to expect is that of the core and its noise, each
    slice times 1 + the noise of its column, and what it exceeds the core's by is error.
    """
    shape = [len(factors[axis]) if axis in factors else length for axis, length in enumerate(core.shape)]
    by_dither = "dither" in parameters
    first, *others = (
        1 + _variance(factors[axis] * gains[axis], by_dither).sum(axis=0) / np.square(gains[axis], dtype=np.float64)
        if axis in factors
        else np.ones(length)
        for axis, length in enumerate(core.shape)
    )
    noisy, held = 0.0, 0.0
    for block, levels in _core_blocks(parameters, tuple(shape)):
        values = _in_steps(core[block], step)
        squares = np.square(values, dtype=np.float64)
        held += float(squares.sum())
        squares += _variance(values, by_dither & (levels >= _DITHERED))
        for growth in reversed(others):
            squares = squares @ growth
        noisy += float(squares @ first[block])
    return (noisy - held) * step**2


def _in_steps(core: Floats, step: float) -> Floats:
    # A step may be too small for fp32.
    return np.divide(core, step, dtype=np.float64).astype(np.float32)


def _variance(values: Floats, by_dither: npt.ArrayLike) -> Doubles:
    """Variance of rounding to integers: a constant by dither, and fraction x (1 - fraction) at random."""
    fractions = np.subtract(values, np.floor(values), dtype=np.float64)
    return np.where(by_dither, VARIANCE, fractions * (1 - fractions))


def _check_parameters(parameters: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    axes, slices, tops = (parameters[name] for name in ("axes", "slices", "tops"))
    whole = all(type(scale) is int and abs(scale) <= _MAX_SCALE for scale in (*axes, *tops, parameters["level"]))
    if not whole or not abs(float(parameters["outer"])) <= _MAX_OUTER:
        raise DamagedSkillError("a Tucker part has axes or scales out of range")
    sound = len(axes) == len(slices) == len(tops) and list(axes) == sorted({*axes} & {*range(len(shape))})
    sound = sound and all(
        all(type(count) is int and count >= 0 for count in counts)
        and len(counts) <= _MAX_CLASS + 1
        and 0 < sum(counts) <= shape[axis]
        for axis, counts in zip(axes, slices, strict=True)
    )
    if not sound:
        raise DamagedSkillError(f"a Tucker part of a tensor of shape {shape} announces slices {slices}")
