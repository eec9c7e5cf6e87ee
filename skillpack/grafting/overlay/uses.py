"""What is known of how modules use their weights, and which modules skills cannot be beside."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import torch

from skillpack.errors import ConflictError
from skillpack.grafting.overlay.parts import Use

_ROWS_FIRST_NOT: Final = {"xlnet", "transfo-xl"}
"""Models that put the tokens before the rows."""


def use_of(module: torch.nn.Module, attribute: str) -> Use | None:
    """How a module uses one of its tensors; None if that is not known.

    A class of its own forward may do anything with its weight, even if it is derived from a known one.
    """
    if attribute != "weight":
        return None
    forward: Any = type(module).forward
    if forward is torch.nn.Linear.forward:
        return Use.LINEAR
    if forward is torch.nn.Embedding.forward:
        return Use.LOOKUP if module.max_norm is None else None
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return Use.TRANSPOSED
    return None


def check_called(path: str, module: torch.nn.Module, parents: dict[str, torch.nn.Module]) -> None:
    """Refuse a module whose weight is used by others, without a call of its own forward method.

    Args:
        path: of the module in the model.
        module: the module.
        parents: all modules of the model by path.

    Raises:
        ConflictError: it is inside a module of torch that reads its children's weights.
    """
    fused = torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer
    above = [path[:at] for at, character in enumerate(path) if character == "."]
    if any(isinstance(parents.get(name), fused) for name in above) and not isinstance(module, fused):
        raise ConflictError(
            f"The weight of {path} is read by the module around it, so nothing can be added there",
            hint='Use merged mode: skillpack.host(model, mode="merged").',
        )


def rows_reason(model: torch.nn.Module, path: str) -> str | None:
    """Why rows of a batch cannot be told apart in a module; None if they can."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in _ROWS_FIRST_NOT:
        return f"models of type {kind} put the tokens before the rows"
    names = path.split(".")
    if any("expert" in name and each.isdigit() for name, each in pairwise(names)):
        return f"{path} sees the tokens of its expert alone, and not which rows they are of"
    if "relative_attention_bias" in names:
        return f"{path} is computed once for all rows"
    return None
