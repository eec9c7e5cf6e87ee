"""Moving a skill to a newer base: what can move, what it risks, and what it costs on texts."""

from __future__ import annotations

from skillpack.rebasing.conflicts import Conflicts, LayerConflict, TensorConflict
from skillpack.rebasing.report import ByBase, Flips, RebaseReport
from skillpack.rebasing.skills import rebase

__all__ = ["ByBase", "Conflicts", "Flips", "LayerConflict", "RebaseReport", "TensorConflict", "rebase"]
