"""What the distance between a skill and the rate-distortion bound is made of.

    python -m benchmarks.bound [--size 4]

SmolLM2-135M-Instruct fine-tuned to write numbers in Spanish, packed to a size in MB. Every part is in bytes and comes
on top of those before it, so that they add up to the skill; all of them at the error that each tensor of it has.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import results
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.models import smollm2
from skillpack.checkpoint import open_checkpoint
from skillpack.codecs.entropy import Histogram
from skillpack.codecs.gaussian import Source, least_bits
from skillpack.codecs.lowrank import LowRank
from skillpack.delta import find_delta
from skillpack.packing.packer import Goal, Packer

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from skillpack.codecs.entropy import Group
    from skillpack.manifest import TensorEntry
    from skillpack.packing.packer import Packed
    from skillpack.packing.planning import LossyPlan

    Doubles = npt.NDArray[np.float64]

TABLE = "model.embed_tokens.weight"
_TRIES = 10


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=float, default=4.0, help="of the skill, MB")
    size = parser.parse_args().size
    packer = Packer(
        find_delta(open_checkpoint(smollm2()), open_checkpoint(fine_tune(SPANISH_NUMBERS))),
        Goal(size=round(1e6 * size)),
    )
    packed = packer.pack()
    packed.payload.close()
    entries = {entry.name: entry for entry in packed.manifest.tensors}
    rough = [(plan, entries[plan.change.name]) for plan in packer.lossy]
    if {entry.main.codec for _, entry in rough if entry.main is not None} != {LowRank.name}:
        raise SystemExit("the parts are told apart for low-rank tensors only")
    figures = {
        "bytes": packed.size,
        "step": packed.step,
        "error": round(packed.error, 4),
        "over_bound": round(packed.manifest.over_bound(packed.size) or 0.0, 2),
        "linear_layers": _parts(packed, [pair for pair in rough if pair[1].name != TABLE]),
        "embedding": _parts(packed, [pair for pair in rough if pair[1].name == TABLE]),
        "shared": _shared(packed),
    }
    results.save("bound", figures, arguments=f"--size {size:g}")


def _parts(packed: Packed, rough: list[tuple[LossyPlan, TensorEntry]]) -> dict[str, float]:
    """Bytes of each part of some tensors."""
    real, biased = _Sides(), _Sides()
    spectrum = 0.0
    for plan, entry in rough:
        codec, analysis, _ = plan.analyses[0]
        if not isinstance(codec, LowRank):
            raise TypeError(f"{entry.name} is no matrix")
        shape = analysis["left"].shape[0], analysis["right"].shape[0]
        squares = np.square(analysis["all_values"], dtype=np.float64)
        source = Source(squares / max(shape), np.full(squares.size, float(max(shape))))
        spectrum += least_bits(source, entry.error**2 * source.energy) / 8
        real.add(_groups(codec, plan, plan.fineness * packed.step), shape)
        nearest = replace(codec, keep=1.0, dead_zone=0.6)
        biased.add(_groups(nearest, plan, _step_for(nearest, plan, entry.error)), shape)
    bound = sum(entry.bound or 0 for _, entry in rough)
    longer, shorter = biased.sizes()
    coded = sum(entry.bounded_bytes for _, entry in rough)
    found = {
        "bound": bound,
        "rows_differ_in_scale": spectrum - bound,
        "scalar_quantisation": longer - spectrum,
        "second_factor": shorter,
        "unbiased_rounding": sum(real.sizes()) - longer - shorter,
        "coder_and_shared_tables": coded - sum(real.sizes()),
    }
    return {name: round(size) for name, size in found.items()} | {"over_bound": round(coded / bound, 2)}


def _shared(packed: Packed) -> dict[str, int]:
    """Bytes of what all tensors share."""
    manifest = packed.manifest
    whole = len(manifest.dump())
    tables = whole - len(replace(manifest, tables={}).dump())
    lossless = sum(entry.nbytes - entry.bounded_bytes for entry in manifest.tensors)
    files = sum(file.coded for file in manifest.files)
    coded = sum(entry.bounded_bytes for entry in manifest.tensors)
    return {
        "tables": tables,
        "manifest": whole - tables,
        "headers": packed.size - whole - lossless - files - coded,
        "lossless_tensors_and_files": lossless + files,
    }


class _Sides:
    """Symbols of the factors of the longer and of the shorter side, by context."""

    def __init__(self) -> None:
        self._counted = Histogram(), Histogram()

    def add(self, groups: Iterable[Group], shape: tuple[int, int]) -> None:
        """Count one tensor; groups of the left factor come first, those of the right one after them."""
        counted = self._counted if shape[0] >= shape[1] else self._counted[::-1]
        sides: dict[int, list[Group]] = defaultdict(list)
        every = list(groups)
        rank, before = sum(values.size for _, values in every) // sum(shape), 0
        for group in every:
            sides[before >= rank * shape[0]].append(group)
            before += group[1].size
        for side, found in sides.items():
            counted[side].add(found)

    def sizes(self) -> tuple[float, float]:
        """Bytes of both sides at the entropy of the symbols of each context."""
        return self._bytes(0), self._bytes(1)

    def _bytes(self, side: int) -> float:
        bits = float(self._counted[side].raw_bits)
        for context, counts in self._counted[side].counts.items():
            both = counts + self._counted[1 - side].counts[context]
            some = counts > 0
            bits -= float(counts[some] @ np.log2(both[some] / both.sum()))
        return bits / 8


def _groups(codec: LowRank, plan: LossyPlan, step: float) -> list[Group]:
    return [
        group
        for chunk in codec.encode(plan.analyses[0][1], step, plan.seed).chunks()
        if not isinstance(chunk, bytes)
        for group in chunk
    ]


def _step_for(codec: LowRank, plan: LossyPlan, error: float) -> float:
    """The largest step found at which rounding leaves no more than an error."""
    analysis: Any = plan.analyses[0][1]
    values = analysis["values"].astype(np.float64)
    scale = float(np.prod([analysis[side].shape[0] for side in ("left", "right")])) ** 0.25
    low, high = float(values[-1]) / scale / 2, 2 * float(values[0]) / scale
    for _ in range(_TRIES):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _error(codec, plan, middle) <= error else (low, middle)
    return low


def _error(codec: LowRank, plan: LossyPlan, step: float) -> float:
    """Relative error of what a decoder would give, from inner products with the delta's singular vectors."""
    analysis: Any = plan.analyses[0][1]
    found = codec.factors(analysis, step, plan.seed)
    if not found.weights.size:
        return 1.0
    left, right = found.left * found.weights, found.right
    near = (analysis["left"].T @ left) * (analysis["right"].T @ right)
    met = float(analysis["values"].astype(np.float64) @ near.sum(axis=1, dtype=np.float64))
    energy = float(((left.T @ left) * (right.T @ right)).sum(dtype=np.float64))
    return max(0.0, (plan.energy - 2 * met + energy) / plan.energy) ** 0.5


if __name__ == "__main__":
    main()
