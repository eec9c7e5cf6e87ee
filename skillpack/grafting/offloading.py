"""Weights that accelerate keeps elsewhere and puts on their module only while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from skillpack.errors import UnsupportedModelError

if TYPE_CHECKING:
    from collections.abc import Iterator


def offloaded_tensor(module: torch.nn.Module, attribute: str, name: str) -> torch.Tensor:
    """The tensor in the CPU's memory that a weight on the meta device is copied from before it is used.

    Args:
        module: whose weight it is.
        attribute: its name there.
        name: its name in the model, for messages.

    Raises:
        UnsupportedModelError: there is none, or it is read from disk each time.
    """
    for hook in _hooks(getattr(module, "_hf_hook", None)):
        weights = getattr(hook, "weights_map", None)
        if not getattr(hook, "offload", False) or weights is None or attribute not in weights:
            continue
        # A map that gives another tensor each time reads it from disk.
        found = weights[attribute]
        if found is weights[attribute] and isinstance(found, torch.Tensor) and found.device.type == "cpu":
            return found
        raise UnsupportedModelError(
            f"{name} is offloaded to disk, where a live model's weights cannot be written",
            hint="Offload to the CPU, or install the skill on the checkpoint folder (skillpack install) and load that.",
        )
    raise UnsupportedModelError(
        f"{name} is on the meta device, so it has no values", hint="Load the model's weights first."
    )


def _hooks(hook: Any) -> Iterator[Any]:
    """A hook of accelerate, or those that it is a sequence of."""
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))
