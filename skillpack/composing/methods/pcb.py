r"""PCB: parameters compete within a task and between tasks, and the winners are weighted by how much they win.

Du et al., Parameter Competition Balancing for Model Merging, arXiv:2410.02396, section 3. With Norm the scaling of
all numbers of a vector to [0, 1] (least to largest), Softmax over all numbers of a vector, and N tasks:

* intra-balancing: beta_intra,i = Softmax(N Norm(tau_i * tau_i));
* inter-balancing: beta_inter,i = sum_j Softmax(Norm(tau_i * tau_j));
* beta_i = beta_intra,i * beta_inter,i, of which the share `ratio` of the largest is kept, the rest being zero;
* tau = sum_i beta_i lambda w_i tau_i / sum_i beta_i, and zero where no beta is left.

Softmax is taken as exp / mean(exp); the constant by which that differs is the same for all and cancels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skillpack.composing.checks import check_share
from skillpack.composing.elementwise import mapped
from skillpack.composing.selection import QuantileSurvey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from skillpack.composing.protocol import Deltas, Source, Survey, Weights
    from skillpack.tensors import Doubles, Floats

Table = tuple[tuple[float, ...], ...]
"""A number for each pair of skills."""


@dataclass(frozen=True)
class Pcb:
    """PCB-Merging.

    Attributes:
        ratio: share of each skill's numbers that is kept.
        scale: lambda.
        least: of the products of two skills, found by a survey; so are the following.
        largest: likewise.
        means: of the exponentials, for the pairs; the last row is that of the intra-balancing.
        thresholds: of beta.
        bins: of the thresholds, on the way to them.
    """

    name: ClassVar[str] = "pcb"
    ordered: ClassVar[bool] = False
    ratio: float = 0.2
    scale: float = 1.0
    least: Table | None = field(default=None, repr=False, metadata={"recipe": False})
    largest: Table | None = field(default=None, repr=False, metadata={"recipe": False})
    means: Table | None = field(default=None, repr=False, metadata={"recipe": False})
    thresholds: tuple[float, ...] | None = field(default=None, repr=False, metadata={"recipe": False})
    bins: tuple[tuple[int, int], ...] | None = field(default=None, repr=False, metadata={"recipe": False})

    def __post_init__(self) -> None:
        check_share(self.name, "ratio", self.ratio)

    def survey(self, sources: Sequence[Source]) -> Survey | None:
        """See `Surveying`: extremes, means of exponentials, then two rounds for the quantiles of beta."""
        if self.least is None:
            return _Extremes(self, len(sources))
        if self.means is None:
            return _Means(self, len(sources))
        if self.thresholds is not None:
            return None
        return QuantileSurvey(
            len(sources),
            self.ratio,
            values=lambda pieces, _: self.competition(pieces),
            settle=lambda thresholds: replace(self, thresholds=thresholds),
            again=lambda bins: replace(self, bins=bins),
            bins=self.bins,
        )

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        del name
        if self.thresholds is None:
            raise ValueError("PCB-Merging has to survey the model first")
        thresholds = self.thresholds

        def merged(pieces: list[Floats]) -> Floats:
            total, divisor = np.zeros(pieces[0].shape), np.zeros(pieces[0].shape)
            for piece, beta, threshold, weight in zip(
                pieces, self.competition(pieces), thresholds, weights, strict=True
            ):
                kept = np.where(beta >= np.float32(threshold), beta, 0).astype(np.float64)
                total += kept * (self.scale * weight) * piece
                divisor += kept
            return np.divide(total, divisor, out=np.zeros_like(total), where=divisor > 0).astype(np.float32)

        return mapped(deltas, merged)

    def competition(self, pieces: Sequence[Floats]) -> list[Floats]:
        """Beta of each skill, up to a common constant."""
        means = self.means or ()
        found = []
        for i in range(len(pieces)):
            inter = sum(exponential / means[i][j] for j, exponential in enumerate(self.inter(pieces, i)))
            found.append((self.intra(pieces, i) / means[-1][i] * inter).astype(np.float32))
        return found

    def intra(self, pieces: Sequence[Floats], i: int) -> Doubles:
        """exp(N Norm(tau_i * tau_i))."""
        found: Doubles = np.exp(len(pieces) * self._normal(pieces, i, i))
        return found

    def inter(self, pieces: Sequence[Floats], i: int) -> list[Doubles]:
        """exp(Norm(tau_i * tau_j)) for every j."""
        return [np.exp(self._normal(pieces, i, j)) for j in range(len(pieces))]

    def _normal(self, pieces: Sequence[Floats], i: int, j: int) -> Doubles:
        assert self.least is not None
        assert self.largest is not None
        low, high = self.least[i][j], self.largest[i][j]
        products = pieces[i].astype(np.float64) * pieces[j]
        return (products - low) / (high - low) if high > low else np.zeros_like(products)


class _Extremes:
    """The least and the largest product of each pair of skills."""

    def __init__(self, method: Pcb, skills: int) -> None:
        self._method = method
        self._least, self._largest = np.full((skills, skills), np.inf), np.full((skills, skills), -np.inf)

    def observe(self, name: str, deltas: Deltas, weights: Weights) -> None:
        """See `Survey`."""
        del name, weights
        for _, pieces in deltas.pieces():
            for i, left in enumerate(pieces):
                for j, right in enumerate(pieces[: i + 1]):
                    products = left.astype(np.float64) * right
                    self._least[i, j] = self._least[j, i] = min(self._least[i, j], products.min(initial=np.inf))
                    self._largest[i, j] = self._largest[j, i] = max(self._largest[i, j], products.max(initial=-np.inf))

    def found(self) -> Mapping[str, npt.NDArray[Any]]:
        """See `Survey`."""
        return {"least": self._least, "largest": self._largest}

    def restore(self, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Survey`."""
        shape = self._least.shape
        self._least, self._largest = (found[key].reshape(shape).copy() for key in ("least", "largest"))

    def settled(self) -> Pcb:
        """See `Survey`."""
        return replace(self._method, least=_table(self._least), largest=_table(self._largest))


class _Means:
    """Means of the exponentials that the softmax divides by."""

    def __init__(self, method: Pcb, skills: int) -> None:
        self._method, self._sums, self._size = method, np.zeros((skills + 1, skills)), np.zeros(1)

    def observe(self, name: str, deltas: Deltas, weights: Weights) -> None:
        """See `Survey`."""
        del name, weights
        for _, pieces in deltas.pieces():
            self._size += pieces[0].size
            for i in range(len(pieces)):
                self._sums[i] += [exponential.sum() for exponential in self._method.inter(pieces, i)]
                self._sums[-1, i] += self._method.intra(pieces, i).sum()

    def found(self) -> Mapping[str, npt.NDArray[Any]]:
        """See `Survey`."""
        return {"sums": self._sums, "size": self._size}

    def restore(self, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Survey`."""
        self._sums, self._size = found["sums"].reshape(self._sums.shape).copy(), found["size"].copy()

    def settled(self) -> Pcb:
        """See `Survey`."""
        return replace(self._method, means=_table(self._sums / max(1.0, float(self._size[0]))))


def _table(values: Doubles) -> Table:
    return tuple(tuple(row) for row in values.tolist())
