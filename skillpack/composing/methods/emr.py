r"""EMR: elect one shared delta; a mask and a factor give each task its own back.

Huang et al., EMR-Merging, arXiv:2405.17461. Shared: gamma_uni = sgn(sum_t tau_t), epsilon_uni the largest magnitude
among those tau_t that have this sign, tau_uni = gamma_uni * epsilon_uni. For task t: M_t = (tau_t * tau_uni > 0) and
lambda_t = sum |tau_t| / sum |M_t * tau_uni|, sums being over the whole model; the task gets lambda_t M_t * tau_uni.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skillpack.composing.elementwise import mapped, scaled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from skillpack.composing.protocol import Deltas, Source, Survey, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class Emr:
    """EMR-Merging.

    Attributes:
        task: index of the skill that is to be given back; None for the shared delta.
        rescaler: lambda of that task, found by a survey.
    """

    name: ClassVar[str] = "emr"
    ordered: ClassVar[bool] = False
    task: int | None = field(default=None, metadata={"recipe": False})
    rescaler: float | None = field(default=None, repr=False, metadata={"recipe": False})

    def for_task(self, task: int) -> Emr:
        """See `Tasked`."""
        return replace(self, task=task)

    def survey(self, sources: Sequence[Source]) -> Survey | None:
        """See `Surveying`."""
        del sources
        return None if self.task is None or self.rescaler is not None else _Norms(self, self.task)

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        del name
        task = self.task
        if task is None:
            return mapped(deltas, lambda pieces: elected(scaled(pieces, weights)))
        factor = np.float32(1 if self.rescaler is None else self.rescaler)

        def merged(pieces: list[Floats]) -> Floats:
            parts = scaled(pieces, weights)
            shared = elected(parts)
            return np.where(parts[task] * np.sign(shared) > 0, factor * shared, np.float32(0))

        return mapped(deltas, merged)


class _Norms:
    """Sums of magnitudes over the model: of the task's vector, and of what its mask leaves of the shared one."""

    def __init__(self, method: Emr, task: int) -> None:
        self._method, self._task, self._sums = method, task, np.zeros(2)

    def observe(self, name: str, deltas: Deltas, weights: Weights) -> None:
        """See `Survey`."""
        del name
        for _, pieces in deltas.pieces():
            parts = scaled(pieces, weights)
            shared, own = elected(parts), parts[self._task]
            self._sums += (
                np.abs(own).sum(dtype=np.float64),
                np.abs(shared[own * np.sign(shared) > 0]).sum(dtype=np.float64),
            )

    def found(self) -> Mapping[str, npt.NDArray[Any]]:
        """See `Survey`."""
        return {"sums": self._sums}

    def restore(self, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """See `Survey`."""
        self._sums = found["sums"].copy()

    def settled(self) -> Emr:
        """See `Survey`."""
        own, shared = self._sums.tolist()
        return replace(self._method, rescaler=own / shared if shared else 0.0)


def elected(parts: Sequence[Floats]) -> Floats:
    """The shared vector of pieces: the elected sign and the largest magnitude that has it."""
    sign = np.sign(np.sum(parts, axis=0, dtype=np.float64)).astype(np.float32)
    largest = np.zeros(sign.shape, np.float32)
    for part in parts:
        np.maximum(largest, part * sign, out=largest)
    return sign * largest
