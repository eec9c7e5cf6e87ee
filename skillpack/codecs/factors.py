"""Factors of a LoRA adapter as they are: A and B in the adapter's own dtype, and what their product is multiplied by.

The adapter's bytes come back, and the delta is their product, computed so that it is the same on every machine
(`skillpack.codecs.products`). Installed at weight 1 the tensor is bit for bit the one that merging the adapter gives.
LoRA: https://arxiv.org/abs/2106.09685, rsLoRA: https://arxiv.org/abs/2312.03732.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from skillpack.codecs.products import thin_product
from skillpack.codecs.protocol import DeltaFactors, Encoding, Layout
from skillpack.codecs.raw import Raw
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader
    from skillpack.tensors import Doubles, Floats, Tensor

DTYPES: Final = frozenset({"F32", "F16", "BF16"})
"""Dtypes that factors may have."""
_MAX_RANK: Final = 1 << 16
_ANY_RANK: Final = 1 << 10
"""Ranks up to this one are taken for matrices of any size, larger ones only up to the shorter side."""


class LoraFactors(NamedTuple):
    """The factors of one weight, as an adapter's file has them.

    Attributes:
        down: A, as a matrix [rank, in].
        up: B, as a matrix [out, rank].
        alpha: the product is multiplied by alpha / rank, or alpha / sqrt(rank).
        rooted: which of the two; rsLoRA has the root.
        turned: the weight is stored as [in, out], as embeddings and GPT-2's layers are.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rooted: bool
    turned: bool

    @property
    def rank(self) -> int:
        """Number of columns of B."""
        return self.up.shape[1]

    @property
    def scaling(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / math.sqrt(self.rank) if self.rooted else self.alpha / self.rank

    def matrices(self) -> tuple[Doubles, Doubles]:
        """[rows, rank] and [rank, columns] whose product is the delta of the weight as it is stored."""
        left: Doubles = self.up.float32().astype(np.float64) * self.scaling
        right = self.down.float32().astype(np.float64)
        return (right.T, left.T) if self.turned else (left, right)

    @property
    def can_be_coded(self) -> bool:
        """Whether the codec takes them: finite, and of a dtype that it knows."""
        found = (self.down, self.up)
        if not all(tensor.dtype in DTYPES for tensor in found):
            return False
        if self.rank > _most(self.up.shape[0], self.down.shape[1]):
            return False
        return all(bool(np.isfinite(tensor.float32()).all()) for tensor in found)


class AdapterFactors:
    """The codec of an adapter's own factors; both are coded as `Raw` codes tensors, A before B."""

    name = "factors"

    def encode(self, factors: LoraFactors) -> Encoding:
        """Write the factors down."""
        parameters = {
            "alpha": factors.alpha,
            "dtypes": [factors.down.dtype, factors.up.dtype],
            "rank": factors.rank,
            "rooted": factors.rooted,
            "turned": factors.turned,
        }

        def chunks() -> Iterator[Chunk]:
            for tensor in (factors.down, factors.up):
                yield from Raw().encode(None, tensor).chunks()

        return Encoding(parameters, chunks)

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`."""
        del reference
        left, right = self.read(parameters, chunks, layout).matrices()
        return thin_product(left, right).reshape(layout.shape)

    def decode_factors(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], shape: tuple[int, int]
    ) -> DeltaFactors:
        """See `FactoredCodec`."""
        found = self.read(parameters, chunks, Layout("F32", shape))
        rows, columns = (
            (found.down.float32().T, found.up.float32())
            if found.turned
            else (found.up.float32(), found.down.float32().T)
        )
        return DeltaFactors(rows, columns, np.full(found.rank, found.scaling, np.float32))

    def read(self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout) -> LoraFactors:
        """The factors as they were written down; raises as `decode` does."""
        rank, alpha = parameters["rank"], parameters["alpha"]
        rooted, turned = parameters["rooted"], parameters["turned"]
        dtypes = parameters["dtypes"]
        _check(rank, alpha, dtypes, rooted=rooted, turned=turned)
        rows, columns = math.prod(layout.shape[:1]), math.prod(layout.shape[1:])
        out, into = (columns, rows) if turned else (rows, columns)
        if len(layout.shape) < 2 or rank > _most(rows, columns):
            raise DamagedSkillError(f"factors of rank {rank} do not fit a tensor of shape {layout.shape}")
        shapes = ((rank, into), (out, rank))
        raw = Raw()
        down, up = (
            raw.decode({}, chunks, Layout(dtype, shape), None) for dtype, shape in zip(dtypes, shapes, strict=True)
        )
        return LoraFactors(down, up, alpha, rooted, turned)


def _most(rows: int, columns: int) -> int:
    """The largest rank, so that factors cannot take much more memory than their tensor."""
    return min(_MAX_RANK, max(_ANY_RANK, min(rows, columns)))


def _check(rank: Any, alpha: Any, dtypes: Any, *, rooted: Any, turned: Any) -> None:
    known = isinstance(dtypes, list) and len(dtypes) == 2 and set(dtypes) <= DTYPES
    sound = type(rank) is int and rank > 0 and type(alpha) in {int, float} and math.isfinite(alpha)
    if not (known and sound and type(rooted) is bool and type(turned) is bool):
        raise DamagedSkillError("the factors of a low-rank part are not described as they have to be")
