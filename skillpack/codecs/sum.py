"""A weighted sum of other parts, each coded as it was in the skill that it comes from.

What skills add by a weighted sum needs no new code: their streams are kept byte for byte, side by side, with the tables
that read them under names of their own. The sum is taken in fp32, term by term in their order: each product is rounded
once and each sum once, as for skills that are installed together.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np

from skillpack.codecs.protocol import DeltaFactors, Encoding, FactoredCodec, Layout
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.codecs.entropy import ChunkReader
    from skillpack.codecs.protocol import Codec
    from skillpack.tensors import Floats, Tensor

_DEPTH: Final = 8
"""Sums of sums are read down to this depth."""
_BLOCK: Final = 1 << 17
"""Elements that are added at a time."""


class Term(NamedTuple):
    """One part of a sum.

    Attributes:
        codec: that decodes it.
        parameters: of the part.
        chunks: its coded chunks.
        weight: its factor.
        tables: where its frequency tables are: they are called ``TABLES/CONTEXT``.
    """

    codec: str
    parameters: Mapping[str, Any]
    chunks: Sequence[bytes]
    weight: float
    tables: str


class Sum:
    """The codec of weighted sums."""

    name = "sum"

    def encode(self, terms: Sequence[Term]) -> Encoding:
        """Put terms side by side."""
        described = [
            {
                "codec": term.codec,
                "parameters": dict(term.parameters),
                "chunks": len(term.chunks),
                "weight": term.weight,
                "tables": term.tables,
            }
            for term in terms
        ]
        return Encoding({"terms": described}, lambda: [chunk for term in terms for chunk in term.chunks])

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`; one term is in memory beside the sum."""
        total = np.zeros(math.prod(layout.shape), np.float32)
        for codec, term, readers in _terms(parameters, chunks):
            delta = codec.decode(term["parameters"], readers, layout, reference)
            if not isinstance(delta, np.ndarray):
                raise DamagedSkillError(f"a sum has a term of codec {codec.name}, which says what a tensor is")
            _add(total, delta.reshape(-1), term["weight"])
        return total.reshape(layout.shape)

    def decode_factors(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], shape: tuple[int, int]
    ) -> DeltaFactors | None:
        """The factors of all terms side by side; None if a term has none."""
        found = []
        for codec, term, readers in _terms(parameters, chunks):
            factors = codec.decode_factors(term["parameters"], readers, shape) if _factored(codec) else None
            if factors is None:
                return None
            found.append(factors._replace(scales=factors.scales * np.float32(term["weight"])))
        if not found:
            return DeltaFactors.nothing(shape)
        return DeltaFactors(
            np.hstack([factors.rows for factors in found]),
            np.hstack([factors.columns for factors in found]),
            np.concatenate([factors.scales for factors in found]),
        )


def _factored(codec: Codec) -> bool:
    return isinstance(codec, FactoredCodec)


def _terms(
    parameters: Mapping[str, Any], chunks: Iterator[ChunkReader]
) -> Iterator[tuple[Any, Mapping[str, Any], Iterator[ChunkReader]]]:
    """Each term with its codec and its chunks, which must be read before the next term is asked for."""
    from skillpack.codecs import codec_named

    _check_depth(parameters, _DEPTH)
    for term in parameters["terms"]:
        count, weight, tables = term["chunks"], term["weight"], term["tables"]
        if type(count) is not int or count < 0 or type(tables) is not str:
            raise DamagedSkillError("a term of a sum is not described as it has to be")
        if type(weight) not in {int, float} or not math.isfinite(weight):
            raise DamagedSkillError("a sum has a weight that is no finite number")
        readers = [reader.with_tables(tables) for reader in islice(chunks, count)]
        if len(readers) < count:
            raise DamagedSkillError("a sum announces more chunks than there are")
        yield codec_named(term["codec"]), term, iter(readers)


def _check_depth(parameters: Any, left: int) -> None:
    if not left:
        raise DamagedSkillError("a sum holds sums within sums within sums")
    for term in parameters["terms"]:
        if cast("Any", term)["codec"] == Sum.name:
            _check_depth(term["parameters"], left - 1)


@np.errstate(over="ignore", invalid="ignore", under="ignore")
def _add(total: Floats, delta: Floats, weight: float) -> None:
    for start in range(0, total.size, _BLOCK):
        span = slice(start, start + _BLOCK)
        total[span] += np.multiply(delta[span], np.float32(weight), dtype=np.float32)
