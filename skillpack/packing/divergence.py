"""Packing to a divergence: candidates are installed on a copy of the base and measured by real forward passes."""

from __future__ import annotations

import math
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from skillpack.errors import UsageError
from skillpack.installing import Wanted, install
from skillpack.manifest import LAYER_TYPE, MEDIA_TYPE
from skillpack.progress import Progress, silent
from skillpack.skill import open_skill
from skillpack_store import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch

    from skillpack.evaluating.trials import Measured, Trials
    from skillpack.packing.metric import Metric
    from skillpack.packing.packer import Packed
    from skillpack.texts import Sample

_ENOUGH: Final = 16
"""Texts from which on more of them say nothing new about how much a tensor matters."""
_CLOSE: Final = 0.85
"""A search stops when the divergence is at least this share of what is allowed."""
_ROUNDS: Final = 9
_TYPICAL_SLOPE: Final = 2.5
"""d log KL / d log step of typical packs; between the 2 of small errors and what falls away as columns do."""
_SLOPES: Final = 1.0, 6.0
_STRIDE: Final = 6.0
"""The step changes at most by this factor between two candidates."""
_FLAT: Final = 1.005
"""A pack that is not smaller than the last one by this factor will not be for any other step."""


class Trial(NamedTuple):
    """A candidate and what was measured of it."""

    step: float
    packed: Packed
    measured: Measured


def pack_within(
    start: float, allowed: float, attempt: Callable[[float], tuple[Packed, Measured]]
) -> tuple[Packed, Measured]:
    """The smallest pack found whose divergence from the fine-tune is within bounds.

    What is held against the bound is the upper end of the interval, so that other texts of the same kind keep it too.

    Args:
        start: the first step to try.
        allowed: mean KL(tuned || packed), nats per prediction.
        attempt: packs with a step, and measures what came out.

    Raises:
        UsageError: no lossy pack comes as close.
    """
    step = start
    best: Trial | None = None
    trials: list[Trial] = []
    while True:
        packed, measured = attempt(step)
        trials.append(Trial(step, packed, measured))
        last = trials[-1]
        if measured.upper <= allowed and (best is None or packed.size < best.packed.size):
            if best is not None:
                best.packed.payload.close()
            best = last
        else:
            packed.payload.close()
        if _is_enough(trials, allowed):
            break
        step = _next_step(trials, allowed)
    if best is None:
        raise UsageError(
            f"no pack came within {allowed:g} nats of the fine-tune: {last.measured.upper:.3g} at best",
            hint="Allow more, or pack bit for bit with --exact.",
        )
    return best.packed, best.measured


@contextmanager
def open_candidates(
    base: str | Path,
    tuned: str | Path,
    texts: str | Path | Sequence[Sample] | None,
    progress: Progress,
    *,
    learn: bool = False,
) -> Iterator[Candidates]:
    """What measures packs of a fine-tune on texts; its files are temporary.

    Args:
        base: as `open_trials` takes it, like what follows.
        tuned: the fine-tune.
        texts: to measure with; None for what the fine-tune writes itself.
        progress: called during the work.
        learn: keep most of the texts to learn from.

    Raises:
        CheckpointError, DataError, UnsupportedCheckpointError: as `open_trials` does.
    """
    # Only here, since transformers takes seconds to load.
    from skillpack.evaluating.trials import SELF, open_trials

    with tempfile.TemporaryDirectory(prefix="skillpack-pack-") as room:
        trials = open_trials(base, tuned, SELF if texts is None else texts, Path(room), learn=learn, progress=progress)
        yield Candidates(trials, base, Path(room))


class Candidates:
    """Installs packs before any of them is kept, and measures them.

    Attributes:
        trials: texts to measure with.
    """

    def __init__(self, trials: Trials, base: str | Path, room: Path) -> None:
        self.trials, self._base, self._room = trials, base, room

    def sensitivities(self, metric: Metric, progress: Progress = silent) -> dict[str, float]:
        """How much errors in each tensor matter on the texts; see `skillpack.packing.metric`.

        Where there are texts enough to learn from, none is looked at that is measured then.
        """
        from skillpack.packing.metric import sensitivities

        some = self.trials.some(_ENOUGH)
        return sensitivities(metric, self.trials.tuned, some, progress=progress)

    def measure(self, packed: Packed) -> Measured:
        """How far a pack is from the fine-tune."""
        return self.trials.measure(self.opened(packed))

    def opened(self, packed: Packed) -> torch.nn.Module:
        """The base with a pack on it, installed from a store as a user would; its files are gone, but for the model."""
        place = self._room / "candidate"
        # Only here, since transformers takes seconds to load.
        from skillpack.live.models import open_model

        repository = Repository.create(place / "store")
        layers = [(layer, LAYER_TYPE) for layer in packed.payload.layers()]
        skill = repository.put_skill(packed.manifest.dump(), MEDIA_TYPE, layers)
        wanted = Wanted(open_skill(repository, skill.digest, "candidate"), repository)
        install([wanted], self._base, output=place / "model")
        try:
            return open_model(place / "model")
        finally:
            shutil.rmtree(place)


def _is_enough(trials: list[Trial], allowed: float) -> bool:
    last = trials[-1]
    if len(trials) == _ROUNDS or _CLOSE * allowed <= last.measured.upper <= allowed:
        return True
    sizes = sorted((trial.step, trial.packed.size) for trial in trials)
    at = sizes.index((last.step, last.packed.size))
    # At either end of what codecs can do, another step gives the same pack.
    wants_less = last.measured.upper <= allowed and at == len(sizes) - 1 and at > 0
    wants_more = last.measured.upper > allowed and at == 0 and len(sizes) > 1
    return (wants_less and sizes[at - 1][1] < _FLAT * last.packed.size) or (
        wants_more and last.packed.size < _FLAT * sizes[1][1]
    )


def _next_step(trials: list[Trial], allowed: float) -> float:
    """Where log KL, linear in log step, meets what is allowed; between what fitted and what did not once both exist."""
    points = sorted((trial.step, max(trial.measured.upper, 1e-12)) for trial in trials)
    fitting = [point for point in points if point[1] <= allowed]
    others = [point for point in points if point[1] > allowed]
    goal = allowed * (1 + _CLOSE) / 2
    if fitting and others:
        (low, below), (high, above) = fitting[-1], others[0]
        if low < high and below < above:
            share = math.log(goal / below) / math.log(above / below)
            return low * (high / low) ** min(0.95, max(0.05, share))
        return math.sqrt(low * high)
    step, found = fitting[-1] if fitting else others[0]
    factor = (goal / found) ** (1 / _slope(points))
    return step * min(_STRIDE, max(1 / _STRIDE, factor))


def _slope(points: list[tuple[float, float]]) -> float:
    if len(points) < 2:
        return _TYPICAL_SLOPE
    (low, below), (high, above) = points[0], points[-1]
    least, most = _SLOPES
    return min(most, max(least, math.log(above / below) / math.log(high / low)))
