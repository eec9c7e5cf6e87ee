"""The settings of the other methods that are compared: as released, and ladders over the range of divergences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.baselines.bitdelta import BitDelta
from benchmarks.baselines.catalogue import METHODS
from benchmarks.baselines.compeft import ComPeft
from benchmarks.baselines.dare import Dare
from benchmarks.baselines.delta_come import DeltaCoMe
from benchmarks.baselines.graftllm import GraftLLM
from benchmarks.baselines.ultradelta import UltraDelta

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.baselines.protocol import Baseline

LORA_RANKS = (4, 16, 32, 64, 128)
DISTILLING_RATES = (1e-4, 1e-5)
"""Adam's rates for BitDelta's scales: the paper's, and one for deltas as small as those of short fine-tunes."""

LADDERS: tuple[Baseline, ...] = (
    DeltaCoMe(embedding="whole"),
    DeltaCoMe(),
    *(DeltaCoMe(share=share, left_groups="outputs") for share in (0.02, 0.05, 0.12)),
    GraftLLM(),
    *(
        GraftLLM(attention=attention, energy=energy, kept=0.02, kept_bits=4, left_groups="outputs")
        for attention, energy in ((0.08, 0.6), (0.2, 0.8))
    ),
    BitDelta(embedding="whole"),
    BitDelta(),
    *(Dare(drop=drop, bits=bits) for drop, bits in ((0.0, 4), (0.5, 4), (0.9, 4))),
    *(ComPeft(share=share, alpha=None, scope="matrix") for share in (0.1, 0.3)),
    ComPeft(share=0.1, alpha=1),
    UltraDelta(sparsity=0.5, factor=1.0, embedding="base"),
    *(
        UltraDelta(sparsity=sparsity, bits=4, zero="grid", rescale="matrix", embedding="coded")
        for sparsity in (0.0, 0.8)
    ),
)
"""A few dozens of seconds each."""


def everything() -> Sequence[Baseline]:
    """Every setting that the methods themselves find worth trying; hours."""
    return [one for method in METHODS for one in method.sweep()]
