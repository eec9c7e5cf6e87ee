"""DARE: drop entries of the delta at random and rescale what is left, here as codes of a few bits.

Yu et al., "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch", ICML 2024.
Each entry is dropped with probability p and otherwise divided by 1 - p, so that the mean over all choices is the delta.
The choice comes from a seed, so by default no positions are stored: there is no cheaper file for this method.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, ClassVar

from benchmarks.baselines import sparse
from benchmarks.baselines.changes import WITHOUT_WHOLE
from benchmarks.baselines.grids import Layout
from benchmarks.baselines.method import Method

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from typing_extensions import Self

    from benchmarks.baselines.changes import Changes
    from benchmarks.baselines.grids import Zero
    from benchmarks.baselines.protocol import Moments
    from benchmarks.baselines.stream import Integers, Reader


@dataclass(frozen=True, kw_only=True)
class Dare(Method):
    """DARE with quantisation; see `Baseline`.

    Attributes:
        drop: probability p that an entry is dropped.
        bits: of a code; 16 is fp16 without grids.
        group: kept entries that share a grid.
        zero: where grids start; see `Zero`. "grid" keeps entries that did not change at zero.
        positions: see `Positions`.
        seed: of the choice of entries.
    """

    name: ClassVar[str] = "DARE"
    drop: float = 0.9
    bits: int = 4
    group: int = 128
    zero: Zero = "grid"
    positions: sparse.Positions = "seed"
    seed: int = 0

    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], sparse.Entries]:
        """See `Method`."""
        del changes, moments
        return self.code

    def code(self, name: str, delta: torch.Tensor) -> sparse.Entries:
        """Code one matrix."""
        chosen, stored = self._chosen(name, delta.numel()), self.positions == "golomb"
        return sparse.entries(delta, chosen, self._layout(), scale=1 / (1 - self.drop), stored=stored)

    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> sparse.Entries:
        """See `Method`."""
        known = self._chosen(name, shape[0] * shape[1]) if self.positions == "seed" else None
        return sparse.Entries.read(stream, shape, self._layout(), known)

    @classmethod
    def sweep(cls) -> list[Self]:
        """From nothing dropped to 98 % dropped, at 2 to 4 bits, with and without the embedding's delta."""
        drops = [(0.0, 4), (0.0, 3), (0.0, 2), (0.5, 4), (0.5, 2), (0.7, 4), (0.8, 4), (0.8, 2), (0.9, 4), (0.9, 2)]
        drops += [(0.95, 4), (0.95, 2), (0.98, 4)]
        return [
            cls(drop=drop, bits=bits, embedding=embedding) for (drop, bits), embedding in product(drops, WITHOUT_WHOLE)
        ]

    def _chosen(self, name: str, size: int) -> Integers:
        return sparse.random_positions(size, 1 - self.drop, self.seed, name)

    def _layout(self) -> Layout:
        return Layout(self.bits, self.group, self.zero)
