r"""TALL-masks: where each task lives in the merged delta.

Wang et al., Localizing Task Information for Improved Model Merging and Compression, arXiv:2405.07813. Shared:
tau_MTL = alpha sum_t tau_t. Mask of task t: m_t = 1 where |tau_t| >= lambda |tau_MTL - tau_t|; the task gets
m_t * tau_MTL.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from skillpack.composing.elementwise import mapped, scaled, weighted_sum
from skillpack.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class TallMasks:
    """TALL-masks.

    Attributes:
        threshold: lambda; the paper tunes it between 0.2 and 0.6.
        scale: alpha.
        task: index of the skill that is to be given back; None for the shared delta.
    """

    name: ClassVar[str] = "tall-masks"
    ordered: ClassVar[bool] = False
    threshold: float = 0.4
    scale: float = 1.0
    task: int | None = field(default=None, metadata={"recipe": False})

    def __post_init__(self) -> None:
        check_threshold(self.name, self.threshold)

    def for_task(self, task: int) -> TallMasks:
        """See `Tasked`."""
        return replace(self, task=task)

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        del name
        factors, task = [self.scale * weight for weight in weights], self.task

        def merged(pieces: list[Floats]) -> Floats:
            shared = weighted_sum(pieces, factors)
            if task is None:
                return shared
            own = scaled(pieces, weights)[task]
            return np.where(tall_mask(own, shared, self.threshold), shared, np.float32(0))

        return mapped(deltas, merged)


def tall_mask(own: Floats, shared: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Where a task's own numbers explain the shared ones."""
    return np.abs(own) >= np.float32(threshold) * np.abs(shared - own)


def check_threshold(method: str, threshold: float) -> None:
    """Refuse what no magnitude can be compared with.

    Raises:
        UsageError: it is negative or not finite.
    """
    if not 0 <= threshold < math.inf:
        raise UsageError(
            f"{method}: threshold={threshold:g} is no number of 0 or more", hint="Try --option threshold=0.4."
        )
