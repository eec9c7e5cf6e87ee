"""Low rank, and the entries of what is left: the strongest columns by `LowRank`, the rest of the delta by `Direct`.

For deltas with a few strong directions over a floor that is nearly flat. The entry-wise part is of the difference
between the delta and the low-rank part as it is decoded, and so makes up for that part's noise as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skillpack.codecs.direct import Direct, mean_squares
from skillpack.codecs.lowrank import LowRank
from skillpack.codecs.protocol import DELTA, Analysis, Cost, Encoding, Layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.codecs.entropy import Chunk, ChunkReader
    from skillpack.codecs.noise import Seed
    from skillpack.tensors import Floats, Tensor


@dataclass(frozen=True)
class Residual:
    """The codec of low rank plus direct.

    Attributes:
        strong: the first part; its `keep` says how strong a column must be not to be left to the second.
        rest: the second part.
        name: the codec's name in a manifest.
    """

    strong: LowRank = field(default_factory=lambda: LowRank(keep=2.0))
    rest: Direct = field(default_factory=Direct)
    name: str = "lowrank+direct"

    def analyse(self, delta: Floats, finest: float) -> Analysis:
        """The analyses of both parts."""
        return {**self.strong.analyse(delta, finest), **self.rest.analyse(delta, finest)}

    def predicted(self, analysis: Analysis, step: float) -> Cost:
        """What an analysed matrix will cost at `step`, were singular vectors and what they leave over Gaussian."""
        strong = self.strong.predicted(analysis, step)
        energy = float(np.square(analysis["all_values"], dtype=np.float64).sum())
        rest = self.rest.predicted(analysis, step, strong.distortion / energy if energy else 0.0)
        return Cost(rest.distortion, strong.bits + rest.bits)

    def encode(self, analysis: Analysis, step: float, seed: Seed) -> Encoding:
        """See `LossyCodec`; distortion is that of the second part."""
        delta = analysis[DELTA]
        strong = self.strong.encode(analysis, step, seed)
        factors = self.strong.factors(analysis, step, seed)
        left: Floats = factors.left * factors.weights
        right: Floats = np.ascontiguousarray(factors.right.T)

        def rows(block: slice) -> Floats:
            rest: Floats = delta[block] - left[block] @ right
            return rest

        # Noise of its own, lest that of the first part repeats.
        own = replace(seed, key=(*seed.key, "rest"))
        rest = self.rest.encode_rows(rows, mean_squares(rows, delta.shape), step, own)

        def chunks() -> Iterator[Chunk]:
            yield from strong.chunks()
            yield from rest.chunks()

        parameters = {"strong": strong.parameters, "rest": rest.parameters}
        return Encoding(parameters, chunks, rest.distortion)

    def decode(
        self, parameters: Mapping[str, Any], chunks: Iterator[ChunkReader], layout: Layout, reference: Tensor | None
    ) -> Floats:
        """See `Codec`."""
        delta = self.strong.decode(parameters["strong"], chunks, layout, reference)
        # Hostile scales may overflow, which harms nobody.
        with np.errstate(over="ignore", invalid="ignore"):
            delta += self.rest.decode(parameters["rest"], chunks, layout, reference)
        return delta
