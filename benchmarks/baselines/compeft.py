"""ComPEFT: the signs of the greatest entries, all with one magnitude.

Yadav et al., "ComPEFT: Compression for Communicating Parameter Efficient Updates via Sparsification and Quantization",
2023. The greatest share k of the whole task vector is kept as ``sign(D) alpha std(D)``, and the positions as the Golomb
code of the gaps. The paper tries alpha from 0.5 to 10 on validation data; without alpha, the magnitude is the mean of
what is kept, which is nearest in squares.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
import torch

from benchmarks.baselines import sparse
from benchmarks.baselines.changes import WITHOUT_WHOLE
from benchmarks.baselines.method import Method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from benchmarks.baselines.changes import Changes
    from benchmarks.baselines.protocol import Moments
    from benchmarks.baselines.stream import Integers, Reader, Writer

_LEAST = float(np.finfo(np.float32).tiny)
"""Least threshold: an entry that did not change has no sign."""


class Cut(NamedTuple):
    """What is kept, and as what.

    Attributes:
        threshold: least magnitude kept; never zero.
        magnitude: of every kept entry.
    """

    threshold: float
    magnitude: float


@dataclass(frozen=True)
class Ternary:
    """A matrix of zeros and of one magnitude; see `Coded`.

    Attributes:
        shape: of the matrix.
        magnitude: fp32 scalar.
        positions: of the entries that are not zero, ascending, in row-major order.
        positive: their signs, bool (count,).
    """

    shape: tuple[int, int]
    magnitude: torch.Tensor
    positions: Integers
    positive: torch.Tensor

    def matrix(self) -> torch.Tensor:
        """See `Coded`."""
        values = torch.where(self.positive, self.magnitude, -self.magnitude)
        return sparse.scattered(self.shape, self.positions, values)

    def write(self, stream: Writer) -> None:
        """See `Coded`."""
        stream.array(self.magnitude)
        stream.positions(self.positions, self.shape[0] * self.shape[1])
        stream.codes(self.positive, 1)


@dataclass(frozen=True, kw_only=True)
class ComPeft(Method):
    """ComPEFT; see `Baseline`.

    Attributes:
        share: k, of the entries.
        alpha: magnitude in standard deviations of all entries; None is the mean magnitude of the kept ones.
        scope: "model" ranks and scales all coded matrices together, as published; "matrix" each by itself.
    """

    name: ClassVar[str] = "ComPEFT"
    share: float = 0.2
    alpha: float | None = 1.0
    scope: Literal["model", "matrix"] = "model"

    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], Ternary]:
        """See `Method`."""
        del moments
        if self.scope == "matrix" or not changes.coded:
            return lambda _, delta: code(delta, self.cut([delta]))
        common = self.cut(map(changes.delta, changes.coded))
        return lambda _, delta: code(delta, common)

    def cut(self, deltas: Iterable[torch.Tensor]) -> Cut:
        """Where to cut one vector made of several matrices."""
        vector = torch.cat([delta.reshape(-1) for delta in deltas])
        deviation = float(vector.std(unbiased=False))
        first = vector.numel() - max(1, round(self.share * vector.numel()))
        kept = np.partition(vector.abs_().numpy(), first)[first:]
        threshold = max(float(kept[0]), _LEAST)
        mean = float(kept[kept >= threshold].mean(dtype=np.float64)) if kept.max() > 0 else 0.0
        return Cut(threshold, mean if self.alpha is None else self.alpha * deviation)

    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> Ternary:
        """See `Method`."""
        del name
        magnitude, positions = stream.array(torch.float32), stream.positions(shape[0] * shape[1])
        return Ternary(shape, magnitude, positions, torch.from_numpy(stream.codes(positions.size, 1) > 0))

    @classmethod
    def sweep(cls) -> list[Self]:
        """The paper's shares and lower ones, by several magnitudes, with and without the embedding's delta."""
        model = [cls(share=share, alpha=alpha) for share in (0.05, 0.1, 0.2, 0.3, 0.5) for alpha in (0.5, 1, 2, 3)]
        nearest = [
            cls(share=share, alpha=None, scope="matrix", embedding=embedding)
            for share, embedding in product((0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5), WITHOUT_WHOLE)
        ]
        return [*model, *nearest]


def code(delta: torch.Tensor, cut: Cut) -> Ternary:
    """Code one matrix; entries as great as the threshold are kept, however many there are."""
    flat = delta.reshape(-1)
    positions = (flat.abs() >= cut.threshold).nonzero().reshape(-1)
    shape = delta.shape[0], delta.shape[1]
    return Ternary(shape, torch.tensor(cut.magnitude), positions.numpy(), flat[positions] > 0)
