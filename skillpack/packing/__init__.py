"""From a base and its fine-tune to a skill in a store."""

from __future__ import annotations

from skillpack.packing.packer import DEFAULT_QUALITY, Goal
from skillpack.packing.skills import PackReport, pack

__all__ = ["DEFAULT_QUALITY", "Goal", "PackReport", "pack"]
