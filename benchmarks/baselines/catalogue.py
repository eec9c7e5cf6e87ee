"""All methods of the comparison but LoRA extraction, which writes PEFT's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.baselines.bitdelta import BitDelta
from benchmarks.baselines.compeft import ComPeft
from benchmarks.baselines.dare import Dare
from benchmarks.baselines.delta_come import DeltaCoMe
from benchmarks.baselines.graftllm import GraftLLM
from benchmarks.baselines.ultradelta import UltraDelta

if TYPE_CHECKING:
    from benchmarks.baselines.protocol import Baseline

METHODS: tuple[type[Baseline], ...] = (DeltaCoMe, GraftLLM, BitDelta, Dare, ComPeft, UltraDelta)
