"""What a codec is: a way to write one tensor's delta as parameters and groups of integers, and to read it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from skillpack.codecs.entropy import Chunk, ChunkReader
    from skillpack.codecs.gaussian import Source
    from skillpack.codecs.noise import Seed
    from skillpack.tensors import Floats, Tensor

Analysis = Mapping[str, npt.NDArray[np.float32]]
"""What a lossy codec finds out about a delta once, to encode it at many step sizes; arrays that may live on disk."""
DELTA: Final = "delta"
"""What an analysis calls the delta itself where encoding needs it; unlike the rest, it costs nothing to find out."""
Parameters = dict[str, Any]
"""A codec's own side information: JSON values."""


@dataclass(frozen=True)
class Encoding:
    """One way to write down one tensor.

    Attributes:
        parameters: side information for the manifest.
        chunks: yields the chunks anew at every call: the first pass counts them, the second codes them.
        distortion: expected squared error, for choosing between codecs.
    """

    parameters: Parameters
    chunks: Callable[[], Iterable[Chunk]]
    distortion: float = 0.0


class Cost(NamedTuple):
    """What an encoding is expected to cost.

    Attributes:
        distortion: squared error, in the squared units of the delta.
        bits: size.
    """

    distortion: float
    bits: float


@dataclass(frozen=True)
class Layout:
    """Dtype and shape of the tensor that a decoder has to give."""

    dtype: str
    shape: tuple[int, ...]


class Codec(Protocol):
    """Decodes what it has encoded. Instances hold no state."""

    @property
    def name(self) -> str:
        """How a manifest names it."""

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Tensor | Floats:
        """The tuned tensor itself (lossless codecs), or the delta to add to the base's as fp32 of `layout.shape`.

        Args:
            parameters: as in the `Encoding`.
            chunks: readers of the coded chunks in their order.
            layout: of the tuned tensor.
            reference: the base's tensor with `layout.shape`, if there is one.

        Raises:
            DamagedSkillError, ValueError, KeyError, TypeError: the parameters make no sense.
        """


class DeltaFactors(NamedTuple):
    """A delta as the product (rows * scales) @ columns.T, which is never formed.

    In exact arithmetic it differs from the decoded delta by at most 2**-22 times the sum of the magnitudes of its
    terms, since numbers are rounded to fp32 once, and the delta is.

    Attributes:
        rows: integers that fit 16 bits, or fp32; of shape (rows, rank).
        columns: the same; of shape (columns, rank).
        scales: fp32 of shape (rank,).
    """

    rows: npt.NDArray[Any]
    columns: npt.NDArray[Any]
    scales: Floats

    @classmethod
    def nothing(cls, shape: tuple[int, int]) -> DeltaFactors:
        """A delta of zeros: no columns at all."""
        rows, columns = (np.zeros((size, 0), np.int16) for size in shape)
        return cls(rows, columns, np.zeros(0, np.float32))

    @property
    def left(self) -> Floats:
        """fp32 of shape (rows, rank); the delta is left @ right.T."""
        return self.rows.astype(np.float32) * self.scales

    @property
    def right(self) -> Floats:
        """fp32 of shape (columns, rank)."""
        return self.columns.astype(np.float32)

    @property
    def rank(self) -> int:
        """Number of columns of both."""
        return len(self.scales)


@runtime_checkable
class FactoredCodec(Codec, Protocol):
    """A codec whose deltas are products of two thin matrices."""

    def decode_factors(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], shape: tuple[int, int]
    ) -> DeltaFactors | None:
        """The delta of a matrix as factors; None if this one has none.

        Args:
            parameters: as in the `Encoding`.
            chunks: readers of the coded chunks in their order.
            shape: of the matrix.

        Raises:
            DamagedSkillError, ValueError, KeyError, TypeError: the parameters make no sense.
        """


class LosslessCodec(Codec, Protocol):
    """A codec that gives the tuned tensor back bit for bit."""

    def encode(self, reference: Tensor | None, tuned: Tensor) -> Encoding:
        """Write down `tuned`, relative to `reference` of the same shape where there is one."""


class LossyCodec(Codec, Protocol):
    """A codec whose precision follows from one step size."""

    def analyse(self, delta: Floats, finest: float) -> Analysis:
        """Find out once what encoding needs.

        Args:
            delta: fp32; the matrix that `matrix_shape` folds the tensor to, or what a codec asks for in its place; may
                be a memory map and is read in blocks.
            finest: no step size below this one will be asked for.
        """

    def encode(self, analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """Write the delta down with quantisation step `step`, in the units of the delta."""

    def source(self, analysis: Analysis) -> Source:
        """The Gaussian source with the structure that the codec makes use of, for the least bits that any code needs.

        Whatever a decoder could be told for little is to be taken as known, so that the bound is rather too low.
        """
