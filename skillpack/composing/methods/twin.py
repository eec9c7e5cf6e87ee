"""Twin-Merging: what skills share, and what each has besides, which a router adds to the first for each input.

Lu et al., "Twin-Merging: Dynamic Integration of Modular Expertise in Model Merging", NeurIPS 2024 (arXiv 2406.15479).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

import numpy as np

from skillpack.codecs.gram import in_coordinates, principal
from skillpack.composing.elementwise import empty, weighted_sum
from skillpack.errors import NotFiniteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.composing.protocol import Deltas, Source, Weights
    from skillpack.tensors import Floats


_BLOCK: Final = 1 << 21
"""Elements of a matrix that are worked on at a time."""
TEMPERATURE: Final = 0.1
"""Of the softmax over a router's scores, which are about 1 for a skill's own prompts and 0 for others.

The paper's router is a classifier, whose softmax gives nearly all to one skill where an input is clearly of its task.
At a temperature of 1 a lead of 1 among five skills would be a share of 0.4.
"""


class Scored(Protocol):
    """A skill and how well it fits a prompt, see `skillpack.routing.protocol`."""

    @property
    def name(self) -> str:
        """Of the skill."""

    @property
    def score(self) -> float:
        """The larger the better."""


class Route(Protocol):
    """Where a prompt goes, see `skillpack.routing.protocol`."""

    @property
    def choices(self) -> Sequence[Scored]:
        """The skills that serve it; none if the base does."""

    @property
    def scores(self) -> Sequence[Scored]:
        """Of all skills."""


@dataclass(frozen=True)
class Twin:
    """The shared part, tau_s = scale sum_k w_k tau_k; `for_task` gives what a skill has besides.

    Attributes:
        scale: of the sum, as task arithmetic has it.
        rank: share of the full rank that exclusive parts keep, see `Exclusive`.
    """

    name: ClassVar[str] = "twin"
    ordered: ClassVar[bool] = False

    scale: float = 0.3
    rank: float = 0.1

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: the rank is not between 0 and 1.
        """
        check_rank(self.rank)

    def coefficients(self, name: str, sources: Sequence[Source], weights: Weights, layers: int) -> Weights:
        """See `skillpack.composing.protocol.Linear`."""
        del name, sources, layers
        return [self.scale * weight for weight in weights]

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `skillpack.composing.protocol.Method`."""
        return _summed(deltas, self.coefficients(name, deltas.sources, weights, deltas.layers))

    def for_task(self, task: int) -> Exclusive:
        """See `skillpack.composing.protocol.Tasked`."""
        return Exclusive(scale=self.scale, rank=self.rank, task=task)


@dataclass(frozen=True)
class Exclusive:
    """v_t = SVD_r(tau_t - tau_s): of each matrix the r strongest directions; of vectors everything.

    Attributes:
        scale: of the shared part.
        rank: r as a share of the smaller side of a matrix.
        task: index of the skill.
    """

    name: ClassVar[str] = "twin"
    ordered: ClassVar[bool] = False

    scale: float = 0.3
    rank: float = 0.1
    task: int = field(default=0, metadata={"recipe": False})

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `skillpack.composing.protocol.Method`.

        Raises:
            NotFiniteError: a skill adds NaN or infinity to a matrix.
        """
        factors = [-self.scale * weight for weight in weights]
        factors[self.task] += 1.0
        difference = _summed(deltas, factors)
        if difference.ndim < 2:
            return difference
        # Sums of fp32 numbers in fp64 are finite if all of the numbers are.
        if not math.isfinite(float(difference.sum(dtype=np.float64))):
            raise NotFiniteError(
                f"tensor {name} of the skills holds NaN or infinity",
                hint="Repair the fine-tune, and pack it again.",
            )
        matrix = difference.reshape(difference.shape[0], -1)
        kept = max(1, math.ceil(self.rank * min(matrix.shape)))
        return truncated(matrix, kept).reshape(difference.shape)


def truncated(matrix: Floats, rank: int) -> Floats:
    """The best approximation of a rank, fp32: the projection on the strongest singular vectors of the shorter side.

    Only squares of the shorter side are in memory as a whole; a large result is in a temporary file.

    Args:
        matrix: fp32.
        rank: at least 1.
    """
    found = empty(matrix.shape)
    tall, target = (matrix, found) if matrix.shape[0] >= matrix.shape[1] else (matrix.T, found.T)
    rows, columns = tall.shape
    size = max(1, _BLOCK // max(1, columns))
    spans = [slice(first, first + size) for first in range(0, rows, size)]
    strongest = principal((tall[span] for span in spans), columns)[1][:, :rank].astype(np.float32)
    blocks = (np.ascontiguousarray(tall[span]) for span in spans)
    for span, coordinates in zip(spans, in_coordinates(blocks, strongest), strict=True):
        np.matmul(coordinates, strongest.T, out=target[span])
    return found


def twin_addresses(
    route: Route, shared: str, exclusive: Mapping[str, str], *, temperature: float = TEMPERATURE, least: float = 0.01
) -> list[str]:
    """What `host.using` or `generate(skills=...)` takes for a prompt: the shared part and weighted exclusive ones.

    The weights are the softmax of the router's scores over the skills that have an exclusive part. A prompt for which
    the router abstains gets the shared part alone.

    Args:
        route: of the prompt, from a router that knows the skills themselves.
        shared: address of the shared part.
        exclusive: name of a skill -> address of its exclusive part.
        temperature: of the softmax; smaller numbers decide more clearly. The default is for scores that are about 1
            for a skill's own prompts and 0 for others, as those of the methods prototype, linear and self-refined.
        least: weights below are left out, since each part costs time.

    Raises:
        UsageError: the temperature is not positive.

    Example:
        >>> exclusive = {"math": "math-only", "code": "code-only"}
        >>> for route in router.route(["What is 12 times 31?"]):  # doctest: +SKIP
        ...     with host.using(*twin_addresses(route, "shared", exclusive)):
        ...         ...
    """
    if not temperature > 0:
        raise UsageError(f"A temperature of {temperature:g} makes no sense", hint="Give a positive number.")
    known = [scored for scored in route.scores or route.choices if scored.name in exclusive]
    if not route.choices or not known:
        return [shared]
    best = max(scored.score for scored in known)
    powers = [math.exp((scored.score - best) / temperature) for scored in known]
    shares = [power / sum(powers) for power in powers]
    return [
        shared,
        *(f"{exclusive[one.name]}={share!r}" for one, share in zip(known, shares, strict=True) if share >= least),
    ]


def check_rank(rank: float) -> None:
    """Refuse what is no share of a rank.

    Raises:
        UsageError: it is not above 0 and at most 1.
    """
    if not 0 < rank <= 1:
        raise UsageError(f"twin: rank={rank:g} is not between 0 and 1", hint="Try --option rank=0.1.")


def _summed(deltas: Deltas, factors: Weights) -> Floats:
    result = empty(deltas.shape)
    flat = result.reshape(-1)
    for span, pieces in deltas.pieces():
        flat[span] = weighted_sum(pieces, factors)
    return result
