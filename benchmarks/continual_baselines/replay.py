"""Experience replay from a tiny memory.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning" (2019), algorithm 1: each step learns from the batch
of the new task together with as many samples drawn from the memory, which holds an equal number of every earlier task.
A classifier would learn the samples of a batch through the head of their task, which is not done here: this is for
language models only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.continual_baselines.sequential import Sequential

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from skillpack.learning.training import FineTune
    from skillpack.texts import Sample


@dataclass
class Replay(Sequential):
    """See the module.

    Attributes:
        memory: samples of each earlier task.
    """

    name: ClassVar[str] = "replay"
    memory: int = 64

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return {"share": self.share, "memory": self.memory}

    def loss(self, tuner: FineTune, batch: Sequence[Sample], place: int) -> torch.Tensor:
        """See `Sequential`."""
        pool = [sample for learned in self._seen for sample in learned.task.training[: self.memory]]
        if not pool:
            return tuner.loss(batch)
        drawn = random.Random(f"{len(self._seen)} {place}").choices(pool, k=len(batch))  # noqa: S311
        return tuner.loss([*batch, *drawn])
