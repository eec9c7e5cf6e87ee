"""Delta-CoMe: singular triplets at 8, 3 and 2 bits; the code that GraftLLM released is the same with other bands.

Ping et al., "Delta-CoMe: Training-Free Delta-Compression with Mixed-Precision for Large Language Models", NeurIPS 2024.
As released, embedding, head and norms are taken from the fine-tune (``embedding="whole"``); coding the embedding in the
same bands is stronger. GPTQ's grids are fixed before its first step here, where the released code fits each when its
first entry is reached; so the order of the inputs costs no bytes. The number of a grid's zero takes the bits of a code.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

from benchmarks.baselines import bands
from benchmarks.baselines.changes import WITHOUT_WHOLE
from benchmarks.baselines.method import Method
from benchmarks.baselines.singular import decompositions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from typing_extensions import Self

    from benchmarks.baselines.changes import Changes
    from benchmarks.baselines.grids import Zero
    from benchmarks.baselines.protocol import Moments
    from benchmarks.baselines.stream import Reader

SHARES = (0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.4, 0.6)


@dataclass(frozen=True, kw_only=True)
class DeltaCoMe(Method):
    """Delta-CoMe; see `Baseline`.

    Attributes:
        share: triplets kept, as a share of full rank.
        columns: pairs of bits and number of triplets, the strongest first.
        tail: bits of all other triplets.
        group: entries that share a grid.
        zero: where grids start; see `Zero`.
        left_groups: see `LeftGroups`; "rank" as released.
    """

    name: ClassVar[str] = "Delta-CoMe"
    share: float = 0.4
    columns: Sequence[Sequence[int]] = ((8, 2), (3, 32))
    tail: int = 2
    group: int = 128
    zero: Zero = "grid"
    left_groups: bands.LeftGroups = "rank"

    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], bands.Factors]:
        """See `Method`."""
        known = decompositions(changes.base, changes.tuned)

        def code(name: str, delta: torch.Tensor) -> bands.Factors:
            plan = self._plan(delta.shape[0], delta.shape[1])
            return bands.code(known.of(name, delta), plan, moments.get(name))

        return code

    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> bands.Factors:
        """See `Method`."""
        del name
        return bands.Factors.read(stream, shape, self._plan(*shape))

    @classmethod
    def sweep(cls) -> list[Self]:
        """As released and stronger, from a rank of 2 % to one of 60 %, each with and without the embedding's delta."""
        released = [cls(share=share, embedding="whole") for share in (0.2, 0.4)]
        dense = [
            cls(share=share, left_groups="outputs", embedding=embedding)
            for share, embedding in product(SHARES, WITHOUT_WHOLE)
        ]
        others = [
            cls(share=share, left_groups="outputs", columns=((8, 4), (4, 28)), tail=tail)
            for share, tail in ((0.05, 2), (0.1, 2), (0.2, 2), (0.05, 3), (0.1, 3), (0.2, 3))
        ]
        return [*released, cls(), cls(zero="free", left_groups="outputs"), *dense, *others]

    def _plan(self, rows: int, columns: int) -> bands.Plan:
        rank = max(1, round(self.share * min(rows, columns)))
        return bands.Plan(bands.bands(rank, self.columns, self.tail), self.group, self.zero, self.left_groups)
