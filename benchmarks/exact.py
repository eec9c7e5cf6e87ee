"""Exact skill of a bf16 full fine-tune: its share of the checkpoint's bytes, and equality bit for bit.

    python -m benchmarks.exact

SmolLM2-135M-Instruct, 200 AdamW steps at a learning rate of 1e-4. Beside the bytes stand two entropies of the weights'
distances in units in the last place: zeroth order, over all weights alike, and conditional on tensor and exponent of
the base's weight. They bound what a coder with these contexts can reach, side information not counted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

import skillpack
from benchmarks import results
from benchmarks.folders import WEIGHTS, same_tensors, scratch, skill_bytes
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.models import smollm2
from skillpack.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

_SPAN = 1 << 17
"""More than the distances between any two bf16 numbers."""


def main() -> None:
    """Measure and save."""
    base, tuned = smollm2(), fine_tune(SPANISH_NUMBERS)
    checkpoint = (tuned / WEIGHTS).stat().st_size
    zeroth, conditional, unchanged, weights = entropies(base, tuned)
    with scratch() as work:
        store = work / "store"
        packed = skillpack.pack(base, tuned, "spanish", exact=True, store=store)
        size = skill_bytes(store, packed.digest)
        skillpack.install("spanish", base, output=work / "model", store=store)
        equal, tensors = same_tensors(work / "model", tuned)
    results.save(
        "exact",
        {
            "checkpoint_bytes": checkpoint,
            "skill_bytes": size,
            "share": round(size / checkpoint, 5),
            "bits_per_weight": round(8 * size / weights, 4),
            "entropy_bits_per_weight": round(zeroth, 4),
            "conditional_entropy_bits_per_weight": round(conditional, 4),
            "entropy_share": round(zeroth * weights / 8 / checkpoint, 5),
            "conditional_entropy_share": round(conditional * weights / 8 / checkpoint, 5),
            "unchanged_weights": round(unchanged / weights, 4),
            "tensors": tensors,
            "tensors_equal_to_tuned": equal,
        },
    )


def entropies(base: Path, tuned: Path) -> tuple[float, float, int, int]:
    """Zeroth-order and conditional entropy (bits per weight), unchanged weights and weights of a bf16 fine-tune."""
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    total: Counter[int] = Counter()
    conditional = 0.0
    for name in after.tensors:
        old, new = (model.read(name).bits().reshape(-1) for model in (before, after))
        distances = _ordered(new) - _ordered(old)
        values, counts = np.unique(distances, return_counts=True)
        total.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        exponents = (old >> 7 & 255).astype(np.int32)
        # H(distance | exponent) = H(distance, exponent) - H(exponent)
        pairs = np.unique(exponents * _SPAN + distances + _SPAN // 2, return_counts=True)[1]
        conditional += _bits(pairs) - _bits(np.bincount(exponents))
    counts = np.fromiter(total.values(), np.int64)
    weights = int(counts.sum())
    return _bits(counts) / weights, conditional / weights, total[0], weights


def _ordered(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    """Integers in the order of the bf16 numbers, one apart where the numbers are neighbours."""
    magnitude = (bits & 0x7FFF).astype(np.int32)
    return np.where(bits >> 15, -1 - magnitude, magnitude)


def _bits(counts: npt.NDArray[np.integer]) -> float:
    """Bits that an ideal coder spends on symbols with these counts."""
    seen = counts[counts > 0].astype(np.float64)
    return float(seen.sum() * np.log2(seen.sum()) - (seen * np.log2(seen)).sum())


if __name__ == "__main__":
    main()
