"""Forward passes that end early, where what is wanted of them is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch.utils.hooks import RemovableHandle


class _EnoughError(Exception):
    """Ends a forward pass; seen by nobody."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


def input_of(module: torch.nn.Module, forward: Callable[[], object]) -> torch.Tensor | None:
    """What a module is fed in a forward pass, which ends there.

    Args:
        module: part of the model.
        forward: runs the model.

    Returns:
        The first thing that it is fed; None if the pass went by without it.
    """

    def end(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        raise _EnoughError(inputs[0])

    return _ended(module.register_forward_pre_hook(end), forward)


def output_of(module: torch.nn.Module, forward: Callable[[], object]) -> torch.Tensor | None:
    """What a module gives in a forward pass, which ends there: the first of several things.

    Args:
        module: see `input_of`.
        forward: likewise.

    Returns:
        None if the pass went by without it.
    """

    def end(_: torch.nn.Module, __: Any, output: Any) -> None:
        raise _EnoughError(output[0] if isinstance(output, tuple) else output)

    return _ended(module.register_forward_hook(end), forward)


def _ended(handle: RemovableHandle, forward: Callable[[], object]) -> torch.Tensor | None:
    try:
        forward()
    except _EnoughError as enough:
        return enough.states
    finally:
        handle.remove()
    return None
