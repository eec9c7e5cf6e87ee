"""From a base and its fine-tune to a skill in a store."""

from __future__ import annotations

from skillpack.packing.packer import DEFAULT_QUALITY, Goal
from skillpack.packing.skills import PackReport, pack
from skillpack.packing.sweeping import SweepReport, sweep

__all__ = ["DEFAULT_QUALITY", "Goal", "PackReport", "SweepReport", "pack", "sweep"]
