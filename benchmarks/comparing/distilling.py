"""BitDelta with scales that are distilled on the same texts that our calibrated skills learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.baselines.bitdelta import BitDelta, distilled_scales
from benchmarks.baselines.protocol import replace_tensors
from skillpack.checkpoint import open_checkpoint
from skillpack.live.predictions import predict

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.comparing.pairs import Pair

_EPOCHS = 4
_TOKENS = 512
"""Of a batch. With 64 short texts that makes some dozens of steps; the paper takes 200."""


def distilled_bitdelta(pair: Pair, rate: float, folder: Path) -> tuple[int, float]:
    """Write BitDelta with distilled scales, read it back and measure it.

    Args:
        pair: base and fine-tune, language models.
        rate: Adam's rate at the start.
        folder: where to write.

    Returns:
        Bytes of all its files, and mean KL(tuned || compressed), nats per prediction.
    """
    yardstick = pair.yardstick
    BitDelta().save(pair.base, pair.tuned, folder / "plain")
    values = BitDelta.load(folder / "plain", pair.base)
    student, teacher = yardstick.load(pair.base), yardstick.load(pair.tuned)
    replace_tensors(student, values)
    base = open_checkpoint(pair.base)
    matrices = {name: torch.from_numpy(base.read(name).float32()) for name, value in values.items() if value.dim() == 2}
    batches = yardstick.encode(pair.calibration, _TOKENS) * _EPOCHS
    scales = distilled_scales(student, teacher, matrices, batches, rate=rate, logits=predict)
    method = BitDelta(scales=scales)
    size = method.save(pair.base, pair.tuned, folder / "distilled")
    return size, yardstick.kl_with(pair.base, method.load(folder / "distilled", pair.base))
