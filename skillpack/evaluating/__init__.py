"""How far a model with a skill is from the fine-tune, in what it predicts, and which tensors that comes from."""

from __future__ import annotations

from skillpack.evaluating.evaluation import evaluate
from skillpack.evaluating.report import ByModel, EvalReport, TensorShare

__all__ = ["ByModel", "EvalReport", "TensorShare", "evaluate"]
