"""UltraDelta: coarse codes, of which a random part is kept.

Wang et al., "Breaking the Compression Ceiling: Data-Free Pipeline for Ultra-Efficient Delta Compression", NeurIPS 2025.
Matrices fall in three groups of equal size by their standard deviation: the least lose a little more than the wanted
sparsity, the greatest as much less. Each matrix is rounded to one grid of a few bits between its extremes; of the
entries of each code the same share is kept at random, and all is rescaled. The paper's factor from trace norms compares
several fine-tunes and is 1 for a single one. Gaps between the kept entries of one code are Golomb coded, code by code,
which takes fewer bits than gaps between all kept entries and codes beside them.

As released, zero is no point of the grid, so that entries that did not change do so now, and one factor rescales all
matrices. With ``zero="grid"`` entries at zero are not stored, and ``rescale="matrix"`` makes up for what a matrix has
really lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.baselines import sparse
from benchmarks.baselines.changes import WITHOUT_WHOLE
from benchmarks.baselines.grids import nearest
from benchmarks.baselines.method import Method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typing_extensions import Self

    from benchmarks.baselines.changes import Changes
    from benchmarks.baselines.grids import Zero
    from benchmarks.baselines.protocol import Moments
    from benchmarks.baselines.stream import Integers, Reader, Writer

_MOST = 0.99
SPARSITIES = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Sampled:
    """Entries kept of each code; see `Coded`.

    Attributes:
        shape: of the matrix.
        low: value of code 0, fp32 scalar, rescaled.
        step: distance of two values, fp32 scalar, rescaled.
        kept: for each code the positions of its entries, ascending, in row-major order.
    """

    shape: tuple[int, int]
    low: torch.Tensor
    step: torch.Tensor
    kept: list[Integers]

    def matrix(self) -> torch.Tensor:
        """See `Coded`."""
        counts = torch.tensor([len(positions) for positions in self.kept])
        values = (self.low + torch.arange(len(self.kept)) * self.step).repeat_interleave(counts)
        return sparse.scattered(self.shape, np.concatenate(self.kept), values)

    def write(self, stream: Writer) -> None:
        """See `Coded`."""
        stream.array(self.low)
        stream.array(self.step)
        for positions in self.kept:
            stream.positions(positions, self.shape[0] * self.shape[1])


@dataclass(frozen=True, kw_only=True)
class UltraDelta(Method):
    """UltraDelta; see `Baseline`.

    Attributes:
        sparsity: share of all entries that are dropped.
        step: how much more the matrices of the least deviation lose.
        bits: of a code.
        factor: what everything is multiplied by in the end.
        zero: whether zero is a point of the grid; "free" as released.
        rescale: "model" divides by the wanted density, as released; "matrix" by the share that a matrix really keeps.
        seed: of the choice of entries.
    """

    name: ClassVar[str] = "UltraDelta"
    sparsity: float = 0.9
    step: float = 0.02
    bits: int = 4
    factor: float = 1.0
    zero: Zero = "free"
    rescale: Literal["model", "matrix"] = "model"
    seed: int = 0

    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], Sampled]:
        """See `Method`."""
        del moments
        facts = {}
        for name in changes.coded:
            delta = changes.delta(name)
            facts[name] = delta.numel(), float(delta.std(unbiased=False))
        rates = sparsities(facts, self.sparsity, self.step)
        return lambda name, delta: self.code(name, delta, rates[name])

    def code(self, name: str, delta: torch.Tensor, sparsity: float) -> Sampled:
        """Code one matrix, of which about a share `sparsity` is to be zero."""
        low, step = self._grid(delta)
        codes = nearest(delta, step, low, 2**self.bits - 1).reshape(-1).to(torch.uint8).numpy()
        of_code = _positions(codes, 2**self.bits)
        for number in (low + torch.arange(2**self.bits) * step == 0).nonzero().reshape(-1).tolist():
            of_code[number] = of_code[number][:0]
        left = sum(map(len, of_code)) / codes.size
        rate = max(0.0, 1 - (1 - sparsity) / left) if left else 0.0
        random = np.random.Generator(sparse.generator(self.seed, name))
        kept = [_kept(positions, rate, random) for positions in of_code]
        scale = self.factor / (1 - (self.sparsity if self.rescale == "model" else rate))
        return Sampled((delta.shape[0], delta.shape[1]), low * scale, step * scale, kept)

    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> Sampled:
        """See `Method`."""
        del name
        low, step = stream.array(torch.float32), stream.array(torch.float32)
        return Sampled(shape, low, step, [stream.positions(shape[0] * shape[1]) for _ in range(2**self.bits)])

    @classmethod
    def sweep(cls) -> list[Self]:
        """As released, and unbiased with zero kept at zero, from no sparsity to 98 %."""
        released = [
            cls(sparsity=sparsity, factor=factor, embedding="base")
            for sparsity, factor in product((0.0, 0.5, 0.9), (0.8, 1.0))
        ]
        stronger = [
            cls(sparsity=sparsity, bits=bits, zero="grid", rescale="matrix", embedding=embedding)
            for sparsity, bits, embedding in product(SPARSITIES, (4, 5, 6), WITHOUT_WHOLE)
        ]
        return [*released, *stronger]

    def _grid(self, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Least value and step of a grid between the extremes, fp32 scalars."""
        step = (delta.max() - delta.min()) / (2**self.bits - 1)
        if self.zero == "free" or step == 0:
            return delta.min(), step
        return (delta.min() / step).round() * step, step


def sparsities(facts: Mapping[str, tuple[int, float]], wanted: float, step: float) -> dict[str, float]:
    """What each matrix is to lose, so that the whole loses `wanted`.

    Args:
        facts: name -> number of entries and standard deviation.
        wanted: share of all entries.
        step: added for the third of the entries that lies in the matrices of least deviation, and taken from the rest
            beyond the second third. No matrix loses more than 99 %.
    """
    total = sum(size for size, _ in facts.values())
    rates, last, seen, lost = {}, [], 0, 0.0
    for name in sorted(facts, key=lambda name: facts[name][1]):
        size = facts[name][0]
        seen += size
        if 3 * seen > 2 * total:
            last.append(name)
            continue
        rates[name] = min(_MOST, wanted + step if 3 * seen <= total else wanted)
        lost += rates[name] * size
    size = sum(facts[name][0] for name in last)
    rate = min(_MOST, max(0.0, (wanted * total - lost) / size)) if size else wanted
    return rates | dict.fromkeys(last, rate)


def _positions(codes: npt.NDArray[np.uint8], count: int) -> list[Integers]:
    """Where each of `count` codes is, ascending."""
    ends = np.cumsum(np.bincount(codes, minlength=count))
    return np.split(np.argsort(codes, kind="stable"), ends[:-1])


def _kept(positions: Integers, rate: float, random: np.random.Generator) -> Integers:
    """All but a share `rate` of the positions, chosen at random; ascending."""
    count = len(positions) - round(len(positions) * rate)
    return np.sort(random.choice(positions, count, replace=False, shuffle=False))
