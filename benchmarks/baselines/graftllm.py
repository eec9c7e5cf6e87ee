"""GraftLLM as published: a rule for each kind of module.

Du et al., "Knowledge Fusion of Large Language Models Via Modular SkillPacks", ICLR 2026. Of the embedding's and the
head's delta the greatest entries are kept; attention keeps a fixed rank, MLPs the smallest rank that reaches a share of
the delta's energy; factors are rounded by GPTQ at mixed precision. The released code follows other rules, those of
`delta_come`; its bands are for a width of 4096 and are scaled to other widths here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from benchmarks.baselines import bands, sparse
from benchmarks.baselines.changes import is_embedding
from benchmarks.baselines.grids import Layout
from benchmarks.baselines.method import Method
from benchmarks.baselines.singular import decompositions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from typing_extensions import Self

    from benchmarks.baselines.changes import Changes
    from benchmarks.baselines.grids import Zero
    from benchmarks.baselines.protocol import Coded, Moments
    from benchmarks.baselines.stream import Reader, Writer

_ATTENTION = re.compile(r"attn|attention")


@dataclass(frozen=True)
class Ranked:
    """Factors whose rank is stored in front of them; see `Coded`."""

    factors: bands.Factors

    def matrix(self) -> torch.Tensor:
        """See `Coded`."""
        return self.factors.matrix()

    def write(self, stream: Writer) -> None:
        """See `Coded`."""
        stream.number(self.factors.plan.rank)
        self.factors.write(stream)


@dataclass(frozen=True, kw_only=True)
class GraftLLM(Method):
    """GraftLLM; see `Baseline`.

    Attributes:
        kept: share of the entries of embedding and head that are kept.
        kept_bits: their precision; 16 is fp16.
        attention: rank of attention's matrices, as a share of full rank.
        energy: share of the squared singular values that an MLP's matrix keeps.
        columns: pairs of bits and number of triplets at a width of 4096, the strongest first.
        tail: bits of all other triplets.
        group: entries that share a grid.
        zero: where grids start; see `Zero`.
        left_groups: see `LeftGroups`; "rank" as released.
    """

    name: ClassVar[str] = "GraftLLM"
    kept: float = 0.1
    kept_bits: int = sparse.UNROUNDED
    attention: float = 0.25
    energy: float = 0.9
    columns: Sequence[Sequence[int]] = ((8, 20), (4, 180))
    tail: int = 2
    group: int = 128
    zero: Zero = "grid"
    left_groups: bands.LeftGroups = "rank"

    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], Coded]:
        """See `Method`."""
        known = decompositions(changes.base, changes.tuned)

        def code(name: str, delta: torch.Tensor) -> Coded:
            if is_embedding(name):
                positions = sparse.greatest(delta, self.kept)
                return sparse.entries(delta, positions, self._layout(), scale=1, stored=True)
            triplets = known.of(name, delta)
            plan = self._plan(self._rank(name, triplets.strengths), len(triplets.strengths))
            return Ranked(bands.code(triplets, plan, moments.get(name)))

        return code

    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> Coded:
        """See `Method`."""
        if is_embedding(name):
            return sparse.Entries.read(stream, shape, self._layout(), None)
        return Ranked(bands.Factors.read(stream, shape, self._plan(stream.number(), min(shape))))

    @classmethod
    def sweep(cls) -> list[Self]:
        """As published, and a ladder of ranks with fewer and coarser entries of the embedding."""
        steps = [(0.02, 0.3), (0.03, 0.4), (0.05, 0.5), (0.08, 0.6), (0.12, 0.7), (0.2, 0.8), (0.3, 0.9), (0.5, 0.95)]
        pruned = [
            cls(attention=rank, energy=energy, kept=kept, kept_bits=4, left_groups="outputs")
            for rank, energy in steps
            for kept in (0.005, 0.02)
        ]
        bare = [replace(one, embedding="base") for one in pruned if one.kept == 0.02]
        return [cls(), cls(kept=0.3, attention=0.4, energy=0.95), *pruned, *bare]

    def _rank(self, name: str, strengths: torch.Tensor) -> int:
        if _ATTENTION.search(name):
            return max(1, round(self.attention * len(strengths)))
        return smallest_rank(strengths, self.energy)

    def _plan(self, rank: int, full: int) -> bands.Plan:
        columns = [(bits, max(1, round(count * full / 4096))) for bits, count in self.columns]
        return bands.Plan(bands.bands(rank, columns, self.tail), self.group, self.zero, self.left_groups)

    def _layout(self) -> Layout:
        return Layout(self.kept_bits, self.group, self.zero)


def smallest_rank(strengths: torch.Tensor, energy: float) -> int:
    """The fewest leading triplets whose squared strengths reach a share of all squares.

    >>> import torch
    >>> smallest_rank(torch.tensor([3.0, 1.0, 1.0]), 0.9)
    2
    """
    squares = strengths.double().square().cumsum(0)
    return min(len(strengths), int((squares < energy * squares[-1]).sum()) + 1)
