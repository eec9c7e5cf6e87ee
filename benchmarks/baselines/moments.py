"""What the layers of a model are fed, for the methods that calibrate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.baselines.protocol import Moments


@torch.no_grad()
def input_moments(model: Any, run: Callable[[], object]) -> Moments:
    """Second moment of the inputs of every linear layer while a model runs.

    Args:
        model: the model.
        run: feeds it what to calibrate with; padding counts too.

    Returns:
        See `Moments`; of the tokens of all passes.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def keep(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
            sums[name] = sums.get(name, torch.zeros(())) + rows.T @ rows
            counts[name] = counts.get(name, 0) + len(rows)

        return hook

    linear = [(f"{name}.weight", one) for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in linear]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items()}
