"""The whole curve of size against quality of a fine-tune: packs at many sizes, none of which is kept."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skillpack.errors import UsageError
from skillpack.fingerprint import fingerprint
from skillpack.packing.divergence import open_candidates
from skillpack.packing.drawing import check_drawing, drawn
from skillpack.packing.opening import Hands, checkpoint_bytes, opened
from skillpack.packing.packer import Goal
from skillpack.packing.statistics import Weighing
from skillpack.progress import Progress, silent
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.evaluating.trials import Measured
    from skillpack.packing.divergence import Candidates
    from skillpack.packing.metric import Metric
    from skillpack.packing.packer import Packed, Packer
    from skillpack.texts import Sample

POINTS: Final = 9
_SHARES: Final = 0.003, 0.12
"""Sizes at both ends of the curve, in shares of the fine-tune's tensors; roughly."""
_NAMES: Final = "curve.json", "curve.png", "curve.svg"


@dataclass(frozen=True)
class SweepPoint:
    """One pack.

    Attributes:
        step: with which it was coded, in the units of the weights.
        size: bytes on disk of everything that a skill's digest would cover.
        share: `size` in relation to the fine-tune's tensors.
        error: Frobenius norm of what coding left out of the approximated tensors, relative to that of their deltas.
        bound: least bytes of any code at this error, see `Manifest.bound`.
        kl: mean KL(tuned || packed), nats per prediction; None without texts.
        kl_interval: ends of its 95 % bootstrap interval; None without texts.
    """

    step: float
    size: int
    share: float
    error: float
    bound: int | None
    kl: float | None = None
    kl_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class SweepReport:
    """The curve of a fine-tune.

    Attributes:
        base_fingerprint: of the base.
        tuned_fingerprint: of the fine-tune.
        tuned_size: bytes of the fine-tune's tensors.
        points: smallest first.
        samples: texts that the divergence was measured on; None without texts.
        tokens: predictions that it was measured on; None without texts.
        written: files with the curve.
    """

    base_fingerprint: str
    tuned_fingerprint: str
    tuned_size: int
    points: tuple[SweepPoint, ...]
    samples: int | None
    tokens: int | None
    written: tuple[Path, ...]


def sweep(
    base: str | Path,
    tuned: str | Path,
    folder: str | Path,
    *,
    points: int = POINTS,
    calibration: str | Path | Sequence[Sample] | None = None,
    metric: Metric | None = None,
    statistics: str | Path | None = None,
    workers: int | None = None,
    device: str = "cpu",
    ray: str | None = None,
    progress: Progress = silent,
) -> SweepReport:
    """Pack a fine-tune at many sizes, and write size against quality as JSON and as pictures. No skill is kept.

    Args:
        base: folder, ``.safetensors`` file or hub id of the model that the fine-tune started from.
        tuned: the same for the fine-tune; or the folder of a PEFT LoRA adapter.
        folder: where ``curve.json``, ``curve.png`` and ``curve.svg`` go; it is made if it is not there.
        points: how many packs to try; those that are no larger than a rougher one are left out.
        calibration: texts as `skillpack.texts.read_samples` reads them, samples, or "self" for texts that the fine-tune
            writes itself. With texts tensors are weighed as `skillpack.pack` does, and every pack is installed on a
            copy of the base and its KL(tuned || packed) is measured.
        metric: how texts weigh tensors, see `skillpack.pack`.
        statistics: file to keep that in, see `skillpack.pack`; if it is there, tensors are weighed without texts too.
        workers: see `skillpack.pack`.
        device: see `skillpack.pack`.
        ray: see `skillpack.pack`.
        progress: called during the work.

    Raises:
        CheckpointError: a checkpoint cannot be read, or the two do not fit each other.
        NotFiniteError: the fine-tune holds NaN or infinity.
        UsageError: nothing is approximated, the device or the cluster is not there, or pictures cannot be drawn since
            matplotlib is not installed.
        DataError: the texts cannot be used.
        UnsupportedCheckpointError: the divergence of this kind of model cannot be measured.
        OSError: the folder cannot be made or written.

    Example:
        >>> sweep("org/base", "./math-tuned", "math-curve")  # doctest: +SKIP
    """
    if points < 2:
        raise UsageError(f"{points} points make no curve", hint="Ask for 2 or more; 9 are usual.")
    check_drawing()
    disk.make_directory(Path(folder))
    numbered = _Numbered(progress)
    with opened(base, tuned, Goal(), Hands(workers, device, ray), numbered) as found:
        delta, packer = found.delta, found.packer
        tuned_size = checkpoint_bytes(delta.tuned)
        smallest, largest = (round(share * tuned_size) for share in _SHARES)
        weighing, of = _weighing(calibration, metric, statistics), fingerprint(delta.tuned_digests)
        known = weighing.known(of)
        untold = calibration is None and known is not None
        with nullcontext() if untold else open_candidates(base, tuned, calibration, numbered) as candidates:
            if known is None and candidates is not None:
                known = weighing.found(of, candidates, numbered)
            packer.weigh(known or {})
            steps = packer.ladder(smallest, largest, points)
            curve, measured = _measured(packer, steps, tuned_size, candidates, numbered)
    report = SweepReport(
        base_fingerprint=fingerprint(delta.base_digests),
        tuned_fingerprint=fingerprint(delta.tuned_digests),
        tuned_size=tuned_size,
        points=tuple(curve),
        samples=None if measured is None else measured.samples,
        tokens=None if measured is None else measured.tokens,
        written=tuple(Path(folder) / name for name in _NAMES),
    )
    _write(report)
    return report


def _weighing(calibration: object, metric: Metric | None, statistics: str | Path | None) -> Weighing:
    """By fisher unless something else is asked for, and not at all where nothing is said about texts."""
    usual: Metric = "identity" if calibration is None and statistics is None else "fisher"
    return Weighing(metric or usual, None if statistics is None else Path(statistics))


class _Numbered:
    """Progress that says which point of the curve is at work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.point = ""

    def __call__(self, done: int, total: int, what: str) -> None:
        self._progress(done, total, f"{what}{self.point}")


def _measured(
    packer: Packer, steps: Sequence[float], tuned_size: int, candidates: Candidates | None, progress: _Numbered
) -> tuple[list[SweepPoint], Measured | None]:
    points: list[SweepPoint] = []
    measured: Measured | None = None
    for number, step in enumerate(steps, start=1):
        progress.point = f", point {number} of {len(steps)}"
        packed = packer.coded_at(step)
        # At either end of what codecs can do, another step gives the same pack.
        if not points or packed.size > points[-1].size:
            measured = None if candidates is None else candidates.measure(packed)
            points.append(_point(packed, tuned_size, measured))
        packed.payload.close()
    return points, measured


def _point(packed: Packed, tuned_size: int, measured: Measured | None) -> SweepPoint:
    return SweepPoint(
        step=packed.step,
        size=packed.size,
        share=packed.size / max(1, tuned_size),
        error=packed.error,
        bound=packed.manifest.bound,
        kl=None if measured is None else measured.kl,
        kl_interval=None if measured is None else (measured.lower, measured.upper),
    )


def _write(report: SweepReport) -> None:
    document = {name: value for name, value in asdict(report).items() if name != "written"}
    for path in report.written:
        kind = path.suffix.removeprefix(".")
        text = (json.dumps(document, indent=2) + "\n").encode() if kind == "json" else drawn(report.points, kind)
        disk.replace(path, [text])
