r"""Low rank: singular vectors, every coefficient quantised with one step.

With D = U diag(s) V^T, the entries of both U diag(s) and V diag(s) are quantised with the same absolute step, which
is what reverse water-filling asks for: rank and precision per column follow from the step and are not settings.
Rounding is dithered, so that what is decoded is unbiased: E[D'] = D up to the columns left out. A shrunken delta is
wrong in the same direction in every layer at once, while zero-mean noise averages out.

Of a weak column little is left but noise, in either factor. So it is not always kept, but with a probability in
proportion to its singular value, and then so much stronger that it is right on average (importance sampling, as
Drineas et al., 2006, do it with the columns of a matrix product). In as many bytes there is less noise then, of the
weakest a fourth.

A column's class is log2(s / step) in half octaves. It fixes both the context of its symbols and the inner scale by
which the product of its two integer vectors is multiplied. Inner scales are integers, and all sums stay below 2**53,
so that float64 adds them without rounding in any order: decoding gives the same bits on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from skillpack.codecs.dead_zone import toward_zero
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
from skillpack.codecs.gram import in_coordinates, principal
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.protocol import Analysis, Cost, DeltaFactors, Encoding, Layout, Parameters
from skillpack.codecs.subspace import strongest
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader, Group
    from skillpack.codecs.noise import Seed
    from skillpack.tensors import Doubles, Floats, Tensor

_BLOCK: Final = 1 << 21
"""Elements of a matrix that are worked on at a time."""
_CHUNK: Final = 1 << 22
"""Symbols after which the next ones go into a chunk of their own, so that not all need be in memory at once."""
_LARGE: Final = 2048
"""Shorter sides from which on not all singular vectors are found, if few are wanted."""
_INNER_BITS: Final = 8
_MAX_CLASS: Final = 80
_EXACT_SUMS: Final = 2**53


class Coefficients(NamedTuple):
    """A rounded delta, which is (left * weights) @ right.T.

    Attributes:
        left: in steps; fp32 of shape (rows, rank).
        right: in steps; fp32 of shape (columns, rank).
        weights: what the product of a step with a step amounts to; fp32 of shape (rank,).
    """

    left: Floats
    right: Floats
    weights: Floats


class _Chosen(NamedTuple):
    """The columns that are coded at a step.

    Attributes:
        step: the one that is used.
        places: of the columns among those of the analysis, ascending; int64 of shape (rank,).
        values: their singular values, or those that they are given; fp64 of shape (rank,).
        classes: of the columns, descending; int64 of shape (rank,).
        parameters: of the part.
    """

    step: float
    places: npt.NDArray[np.int64]
    values: Doubles
    classes: npt.NDArray[np.int64]
    parameters: Parameters


class IntegerFactors(NamedTuple):
    """What a part holds: the delta is outer * (left * inner) @ right.T, but for its cast to fp32.

    Attributes:
        left: integers [rows, rank].
        right: integers [columns, rank].
        inner: scales of the columns, integers in fp64 [rank].
        outer: scale of all.
    """

    left: npt.NDArray[np.signedinteger[Any]]
    right: npt.NDArray[np.signedinteger[Any]]
    inner: Doubles
    outer: float


@dataclass(frozen=True)
class LowRank:
    """The low-rank codec.

    Attributes:
        keep: columns are kept while their singular value exceeds `keep` times step times (rows x columns)**(1/4),
            the point at which their energy equals that of their quantisation noise being at `keep` = 1. Columns
            well below it are still worth their bits when rounding is unbiased.
        certain: in the same unit, where columns begin that are kept for certain; weaker ones that are kept are made as
            strong. Where rounding is biased all are kept as they are.
        dead_zone: None for subtractive dither, or stochastic rounding where the step is too fine for it. Otherwise
            magnitudes are rounded down where their fraction is less than this: least squared error per bit, but
            biased towards zero.
        device: torch device that analyses; encoding and decoding need none.
        name: the codec's name in a manifest.
    """

    keep: float = 0.15
    certain: float = 0.5
    dead_zone: float | None = None
    device: str = "cpu"
    name: str = "lowrank"

    def analyse(self, delta: Floats, finest: float) -> Analysis:
        """Singular vectors and values of the columns that `finest` would keep.

        By the Gram matrix in float64; of a large matrix, of which few columns are kept, by subspace iteration. Then the
        other singular values are not known, and what they are together is taken for spread evenly.
        """
        energies, threshold = _row_energies(delta), self._threshold(delta.shape, finest)
        spectrum, vectors = _eigen(delta, energies, threshold, self.device)
        size = int((spectrum > threshold).sum())
        values, near = spectrum[:size], vectors[:, :size]
        far = _project(delta, near, values, self.device)
        left, right = (far, near) if delta.shape[0] >= delta.shape[1] else (near, far)
        return _analysis(left, right, spectrum, energies)

    def analyse_product(self, left: Doubles, right: Doubles, finest: float) -> Analysis:
        """The analysis of a delta that is known as a product, such as LoRA's B A, without ever forming it.

        Both factors are made orthonormal (QR), and the singular value decomposition is that of what is left between
        them. Directions that the product has not are not even there as rounding errors.

        Args:
            left: fp64 [rows, rank].
            right: fp64 [rank, columns].
            finest: no step size below this one will be asked for.
        """
        import torch

        (rows, inner_rows), (columns, inner_columns) = (
            torch.linalg.qr(torch.from_numpy(np.ascontiguousarray(factor))) for factor in (left, right.T)
        )
        near, spectrum, far = torch.linalg.svd(inner_rows @ inner_columns.T, full_matrices=False)
        values, near, far = spectrum.numpy(), (rows @ near).numpy(), (columns @ far.T).numpy()
        size = int((values > self._threshold((left.shape[0], right.shape[1]), finest)).sum())
        energies = np.square((near if len(near) >= len(far) else far) * values).sum(axis=1)
        return _analysis(near[:, :size], far[:, :size], values, energies)

    def source(self, analysis: Analysis) -> Source:
        """See `LossyCodec`: rows of the longer side are Gaussian with one covariance, each with a scale of its own.

        The covariance, which is that of the delta, and the scales are known. So there is one coefficient for each row
        and direction, and the singular vectors of the shorter side cost nothing.
        """
        squares = np.square(analysis["all_values"], dtype=np.float64)
        return product_source(float(squares.sum()), [analysis["shares"], squares])

    def encode(self, analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """See `LossyCodec`; distortion is the noise of all kept coefficients, and what keeping and leaving out does."""
        shape = analysis["left"].shape[0], analysis["right"].shape[0]
        chosen = self._chosen(analysis, step, seed)
        parameters, rank = chosen.parameters, chosen.places.size
        if not rank:
            return Encoding(parameters, lambda: iter(()), _energy(analysis["all_values"]))
        inner = _inner(parameters["top"] - chosen.classes)

        def chunks() -> Iterator[Chunk]:
            peaks = np.zeros((2, rank))
            found: list[Group] = []
            written = 0
            for side, columns, symbols, units in self._rounded(analysis, chosen, seed):
                if written >= _CHUNK:
                    yield found
                    found, written = [], 0
                peaks[side, columns] = np.abs(units).max(axis=0)
                found += symbols
                written += units.size
            _check_exact(peaks, inner)
            yield found

        variance = (VARIANCE if "dither" in parameters else 2 * VARIANCE) * chosen.step**2
        left_out = _energy(np.delete(analysis["all_values"], chosen.places))
        strengthened = _energy(chosen.values - analysis["values"][chosen.places])
        return Encoding(
            parameters, chunks, float(_noise(shape, chosen.values, variance).sum()) + left_out + strengthened
        )

    def factors(self, analysis: Analysis, step: float, seed: Seed) -> Coefficients:
        """What a decoder multiplies."""
        chosen = self._chosen(analysis, step, seed)
        rank = chosen.places.size
        left, right = (np.zeros((analysis[side].shape[0], rank), np.float32) for side in ("left", "right"))
        if not rank:
            return Coefficients(left, right, np.zeros(0, np.float32))
        for side, columns, _, units in self._rounded(analysis, chosen, seed):
            (left, right)[side][:, columns] = units / np.float32(_unit(chosen.parameters))
        return Coefficients(left, right, _weights(chosen.parameters, chosen.classes).astype(np.float32))

    def moved(self, analysis: Analysis, step: float, seed: Seed, left: Floats, right: Floats) -> Analysis:
        """The analysis of a delta whose coefficients lie elsewhere.

        Args:
            analysis: of the delta.
            step: that moves are in units of, as in `factors`.
            seed: see `factors`.
            left: by how many steps the entries of the first factor move; fp32 of its shape.
            right: the same for the second factor.
        """
        chosen = self._chosen(analysis, step, seed)
        found = dict(analysis)
        if chosen.places.size:
            scales = np.sqrt(chosen.values / _weights(chosen.parameters, chosen.classes)).astype(np.float32)
            for side, moves in (("left", left), ("right", right)):
                vectors = np.array(analysis[side], np.float32)
                vectors[:, chosen.places] += moves / scales
                found[side] = vectors
        return found

    def _chosen(self, analysis: Analysis, step: float, seed: Seed) -> _Chosen:
        shape = analysis["left"].shape[0], analysis["right"].shape[0]
        values = analysis["values"].astype(np.float64)
        finest = _finest(values)
        step = max(step, finest)
        values = values[values > self._threshold(shape, step)]
        places = np.arange(values.size)
        if least := self._least(shape, step):
            places = _drawn(values / least, seed)
            values = np.maximum(values[places], least)
        classes = _classes(values, step)
        if not classes.size:
            return _Chosen(step, places, values, classes, {"columns": []})
        top = int(classes[0])
        outer = step * 2.0 ** (-top / 2) / 2**_INNER_BITS
        parameters: Parameters = {"outer": outer, "top": top, "columns": _run_lengths(classes, top)}
        # Offsets take bits that the finest steps need for themselves.
        if self.dead_zone is None and step >= UNIT * finest:
            parameters |= {"outer": outer / UNIT**2, "dither": dither_key(seed)}
        return _Chosen(step, places, values, classes, parameters)

    def _rounded(
        self, analysis: Analysis, chosen: _Chosen, seed: Seed
    ) -> Iterator[tuple[int, slice, list[Group], npt.NDArray[np.int32]]]:
        """Side and columns of each run of columns, first of one side; what to code, and what it will be read as."""
        parameters = chosen.parameters
        dither, noise = Dither.announced(parameters), seed.noise()
        for side, factor in enumerate((analysis["left"], analysis["right"])):
            for level, first, last in _runs(parameters, len(factor)):
                weights = _weights(parameters, np.full(last - first, level))
                scales = np.sqrt(chosen.values[first:last] / weights)
                values = factor[:, chosen.places[first:last]] * scales.astype(np.float32)
                place, context = slice(first, last), _context(level, len(factor))
                if dither is None:
                    symbols = noise.round(values) if self.dead_zone is None else toward_zero(values, self.dead_zone)
                    yield side, place, [(context, symbols.T.reshape(-1))], symbols
                else:
                    offsets = dither.take(values.size)
                    symbols = dithered(values.T.reshape(-1), offsets, noise)
                    units = (UNIT * symbols + offsets).reshape(values.shape[::-1]).T
                    yield side, place, groups(context, symbols, offsets, fine=_fine(level, len(factor))), units

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`."""
        del reference
        shape = matrix_shape(layout.shape)
        delta = np.zeros(shape, np.float32)
        found = self.integers(parameters, chunks, shape)
        if found is None:
            return delta.reshape(layout.shape)
        left, right = found.left, (found.right * found.inner).T
        size = max(1, _BLOCK // shape[1])
        for first in range(0, shape[0], size):
            # A hostile scale may overflow to infinity, which harms nobody.
            with np.errstate(over="ignore"):
                delta[first : first + size] = (left[first : first + size].astype(np.float64) @ right) * found.outer
        return delta.reshape(layout.shape)

    def integers(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], shape: tuple[int, int]
    ) -> IntegerFactors | None:
        """The coded factors of a matrix of this shape as they are; None without columns. Raises as `decode` does."""
        if not parameters["columns"]:
            return None
        _check_parameters(parameters, shape)
        reader = _Reader(chunks)
        dither = Dither.announced(parameters)
        left, right = (_read_factor(reader, parameters, count, dither) for count in shape)
        inner = np.repeat(_inner(np.arange(len(parameters["columns"]))), parameters["columns"])
        reader.finish()
        _check_exact(np.stack([_peaks(left), _peaks(right)]), inner)
        return IntegerFactors(left, right, inner, float(parameters["outer"]))

    def decode_factors(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], shape: tuple[int, int]
    ) -> DeltaFactors:
        """See `FactoredCodec`."""
        found = self.integers(parameters, chunks, shape)
        if found is None:
            return DeltaFactors.nothing(shape)
        with np.errstate(over="ignore"):
            scales = (found.inner * found.outer).astype(np.float32)
        return DeltaFactors(_narrow(found.left), _narrow(found.right), scales)

    def predicted(self, analysis: Analysis, step: float) -> Cost:
        """What an analysed matrix will cost at `step` on average, were its singular vectors Gaussian."""
        shape = analysis["left"].shape[0], analysis["right"].shape[0]
        values = analysis["all_values"].astype(np.float64)
        size = int((values > self._threshold(shape, step)).sum())
        kept, left_out = values[:size], _energy(values[size:])
        strong = np.maximum(kept, self._least(shape, step))
        odds = kept / strong
        bits = gaussian_bits(strong[:, None] / (step * np.sqrt(shape)[None, :])) @ np.array(shape)
        noise = _noise(shape, strong, VARIANCE * step**2) + strong * (strong - kept)
        return Cost(float(odds @ noise) + left_out, float(odds @ bits))

    def _threshold(self, shape: tuple[int, ...], step: float) -> float:
        return self.keep * _unit_of(shape, step)

    def _least(self, shape: tuple[int, ...], step: float) -> float:
        """The singular value from which on columns are kept for certain, in the middle of a class; 0 if all are."""
        if self.dead_zone is not None or not self.certain:
            return 0.0
        return step * 2.0 ** (round(2 * math.log2(self.certain * _unit_of(shape, 1.0))) / 2)


def _unit_of(shape: tuple[int, ...], step: float) -> float:
    """The singular value of a column whose energy is that of its own noise, about."""
    return step * float(math.prod(shape)) ** 0.25


def _drawn(odds: Doubles, seed: Seed) -> npt.NDArray[np.int64]:
    """Places of what is kept, with these odds each, ascending; what has odds of 1 or more is kept for certain.

    Systematic sampling (Madow, 1949): one random number for all, so that of any run of neighbours there are as many as
    its odds add up to, or one more or less.
    """
    weak = np.where(odds < 1, odds, 0.0)
    start = float(replace(seed, key=(*seed.key, "columns")).noise().uniform((1,))[0])
    reached = np.floor(np.cumsum(np.concatenate([[start], weak])))
    return np.flatnonzero((odds >= 1) | (np.diff(reached) > 0))


def _narrow(integers: npt.NDArray[np.signedinteger[Any]]) -> npt.NDArray[Any]:
    fits = int(np.abs(integers).max(initial=0)) <= np.iinfo(np.int16).max
    return integers.astype(np.int16 if fits else np.float32)


def _analysis(
    left: npt.NDArray[np.floating[Any]], right: npt.NDArray[np.floating[Any]], spectrum: Doubles, energies: Doubles
) -> Analysis:
    """What an analysis holds: kept singular vectors and their values, all values, and shares of the longer side's rows.

    Args:
        left: kept left singular vectors, one a column.
        right: kept right singular vectors.
        spectrum: all singular values, descending.
        energies: squared norms of the rows of the longer side.
    """
    found = {"left": left, "right": right, "values": spectrum[: left.shape[1]], "all_values": spectrum}
    found["shares"] = energies / max(float(energies.sum()), np.finfo(np.float64).tiny)
    return {name: array.astype(np.float32, copy=False) for name, array in found.items()}


def rank(parameters: Mapping[str, Any]) -> int:
    """Number of columns that a low-rank part holds."""
    return int(sum(parameters["columns"]))


def _eigen(delta: Floats, energies: Doubles, threshold: float, device: str) -> tuple[Doubles, Doubles]:
    """Singular values, descending, and the singular vectors of the shorter side of a matrix, as far as they are known.

    Args:
        delta: the matrix.
        energies: squared norms of its rows.
        threshold: which singular values are wanted.
        device: torch device that does the work.
    """
    rows, columns = delta.shape
    length, size = min(rows, columns), max(1, _BLOCK // min(rows, columns))

    def pieces() -> Iterator[Floats]:
        for first in range(0, max(rows, columns), size):
            yield delta[first : first + size] if rows >= columns else delta[:, first : first + size].T

    norm = math.sqrt(float(energies.sum()))
    if length >= _LARGE and 0 < threshold < norm < math.inf:
        # In single precision squares of what is not scaled could overflow.
        found = strongest(lambda: (piece / norm for piece in pieces()), length, threshold / norm, device)
        if found is not None:
            values, others = norm * found.values, length - found.values.size
            left = max(0.0, norm**2 - _energy(values))
            return np.append(values, np.full(others, min(math.sqrt(left / others), threshold))), found.vectors
    return principal(pieces(), length, device)


def _row_energies(delta: Floats) -> Doubles:
    """Squared norms of the rows of the longer side."""
    tall = delta if delta.shape[0] >= delta.shape[1] else delta.T
    size = max(1, _BLOCK // tall.shape[1])
    starts = range(0, len(tall), size)
    return np.concatenate([np.square(tall[at : at + size], dtype=np.float64).sum(axis=1) for at in starts])


def _project(
    delta: Floats, near: npt.NDArray[np.float64], values: npt.NDArray[np.float64], device: str
) -> npt.NDArray[np.float32]:
    """Singular vectors of the longer side, from those of the shorter one."""
    tall = delta if delta.shape[0] >= delta.shape[1] else delta.T
    far = np.empty((tall.shape[0], values.size), np.float32)
    size = max(1, _BLOCK // tall.shape[1])
    starts = range(0, tall.shape[0], size)
    blocks = (np.ascontiguousarray(tall[first : first + size]) for first in starts)
    for first, projected in zip(starts, in_coordinates(blocks, near.astype(np.float32), device), strict=True):
        np.divide(projected, values, out=far[first : first + size], casting="same_kind")
    return far


def _finest(values: npt.NDArray[np.float64]) -> float:
    """The step below which products might not add up exactly; errors are beneath those of an fp32 delta by then."""
    return 2.0**-20 * math.sqrt(float(values[:1].sum()) * float(values.sum()))


def _classes(values: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.int64]:
    """Class of each kept column, descending; at most _MAX_CLASS below the first."""
    classes = np.rint(2 * np.log2(values / step)).astype(np.int64)
    return np.maximum(classes, classes[0] - _MAX_CLASS) if classes.size else classes


def _inner(below: Any) -> Any:
    """Integer scale of the class that is `below` half octaves under the top one: 2**(below / 2), 8 more bits kept."""
    table = np.array([math.isqrt(1 << (2 * _INNER_BITS + index)) for index in range(_MAX_CLASS + 1)], np.float64)
    return table[below]


def _weights(parameters: Mapping[str, Any], classes: npt.NDArray[np.int64]) -> Doubles:
    """What a step of one factor times a step of the other amounts to, in columns of these classes."""
    weights: Doubles = parameters["outer"] * _unit(parameters) ** 2 * _inner(parameters["top"] - classes)
    return weights


def _run_lengths(classes: npt.NDArray[np.int64], top: int) -> list[int]:
    """How many columns are in the top class, the one below it, and so on."""
    return np.bincount(top - classes).tolist()


def _runs(parameters: Mapping[str, Any], entries: int) -> Iterator[tuple[int, int, int]]:
    """Class, first column and end of each run of columns of one class.

    Args:
        parameters: of the part.
        entries: of a column; runs of too many are divided.
    """
    first, most = 0, max(1, _CHUNK // entries)
    for below, count in enumerate(parameters["columns"]):
        for start in range(first, first + count, most):
            yield parameters["top"] - below, start, min(start + most, first + count)
        first += count


def _level(level: int, entries: int) -> int:
    """log2 of the spread of the entries of a class, in steps, in half octaves."""
    return level - round(math.log2(entries))


def _context(level: int, entries: int) -> str:
    return f"lowrank.{_level(level, entries)}"


def _fine(level: int, entries: int) -> bool:
    return is_fine(_level(level, entries))


def _unit(parameters: Mapping[str, Any]) -> int:
    """How many integers there are to a step."""
    return UNIT if "dither" in parameters else 1


class _Reader:
    """Reads run after run from as many chunks as they were written in.

    Attributes:
        current: the chunk that was read from last.
    """

    def __init__(self, chunks: Iterator[ChunkReader]) -> None:
        self._chunks, self.current, self._read = chunks, next(chunks), 0

    def part(self, count: int) -> ChunkReader:
        """The chunk that holds the next `count` symbols."""
        if self._read >= _CHUNK:
            self.finish()
            self.current, self._read = next(self._chunks), 0
        self._read += count
        return self.current

    def finish(self) -> None:
        """Check that the chunk holds nothing else."""
        self.current.finish()


def _read_factor(
    reader: _Reader, parameters: Mapping[str, Any], entries: int, dither: Dither | None
) -> npt.NDArray[np.signedinteger[Any]]:
    """The integers of one side, in the smallest dtype that holds them."""
    factor: npt.NDArray[np.signedinteger[Any]] = np.empty((entries, rank(parameters)), np.int16)
    for level, first, last in _runs(parameters, entries):
        context, count = _context(level, entries), entries * (last - first)
        chunk = reader.part(count)
        if dither is None:
            symbols = chunk.take(context, count)
        else:
            symbols = read_groups(chunk, context, dither.take(count), fine=_fine(level, entries))
        needed = np.promote_types(factor.dtype, np.min_scalar_type(-int(np.abs(symbols).max()) - 1))
        factor = factor.astype(needed, copy=False)
        factor[:, first:last] = symbols.reshape(last - first, entries).T
    return factor


def _peaks(factor: npt.NDArray[np.signedinteger[Any]]) -> npt.NDArray[np.float64]:
    """The largest magnitude of each column."""
    return np.maximum(factor.max(axis=0).astype(np.float64), -factor.min(axis=0).astype(np.float64))


def _check_exact(peaks: npt.NDArray[np.float64], inner: Any) -> None:
    if float((peaks[0] * peaks[1] * inner).sum()) >= _EXACT_SUMS:
        raise DamagedSkillError("the products of a low-rank part are too large to be added exactly")


def _check_parameters(parameters: Mapping[str, Any], shape: tuple[int, int]) -> None:
    columns = parameters["columns"]
    whole = all(type(count) is int and count >= 0 for count in columns)
    if not whole or len(columns) > _MAX_CLASS + 1 or sum(columns) > min(shape):
        raise DamagedSkillError(f"a low-rank part of a {shape[0]}x{shape[1]} matrix announces columns {columns}")
    top = parameters["top"]
    if not math.isfinite(float(parameters["outer"])) or type(top) is not int or abs(top) > 1000:
        raise DamagedSkillError("a low-rank part has scales out of range")


def _noise(shape: tuple[int, ...], values: Doubles, variance: float) -> Doubles:
    """Expected squared error of each product of two noisy columns, that of noise with noise included."""
    noise: Doubles = sum(shape) * variance + math.prod(shape) * np.square(variance / values)
    return noise


def _energy(values: npt.NDArray[np.floating[Any]]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
