"""A module of the base with skills beside it: what stands in the place of its forward method.

Everything of a module stays as it was: class, parameters, hooks, names in state_dict. Only an attribute `forward` of
the module itself shadows that of its class, which is also what accelerate does, and is gone with the last skill.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from skillpack.errors import UsageError
from skillpack.grafting.overlay.parts import with_added
from skillpack.grafting.overlay.stacks import Stack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.grafting.overlay.blends import Blend
    from skillpack.grafting.overlay.parts import Part, Use
    from skillpack.grafting.overlay.stacks import Group


class Action(Protocol):
    """What a layer does in place of the base's forward pass."""

    def run(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute the module's output."""


class Layer:
    """What stands in the place of a module's forward method.

    Attributes:
        module: the base's.
        path: its name in the model.
        use: how it uses its matrix, if that is known.
        action: what applies now; None for the base alone.
        slot: attribute of the module that this is.
        shadowed: what was there before, if the module had one of its own.
        stack: factors of the last mixed batch.
    """

    def __init__(self, module: torch.nn.Module, path: str, use: Use | None) -> None:
        self.module = module
        self.path = path
        self.use = use
        self.action: Action | None = None
        own = vars(module)
        # accelerate has a forward of its own around the true one, which it calls once the weights are there.
        self.slot = "_old_forward" if "_hf_hook" in own and "_old_forward" in own else "forward"
        self.shadowed: Any = own.get(self.slot)
        self.stack: Stack | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the module."""
        if self.action is None:
            return self.base(*args, **kwargs)
        return self.action.run(self, args, kwargs)

    def base(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass as it was without this."""
        if self.shadowed is not None:
            return self.shadowed(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def attach(self) -> None:
        """Take the place of the forward method."""
        vars(self.module)[self.slot] = self

    def detach(self) -> None:
        """Leave the module as it was found; where somebody has wrapped this since, it only steps aside."""
        self.action = None
        own = vars(self.module)
        if own.get(self.slot) is not self:
            return
        if self.shadowed is None:
            del own[self.slot]
        else:
            own[self.slot] = self.shadowed

    def with_weights(self, weights: Mapping[str, torch.Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward pass with other tensors in the place of some of the module's."""
        homes = {name: self._home(name) for name in weights}
        before = {name: home[name] for name, home in homes.items()}
        try:
            for name, home in homes.items():
                home[name] = weights[name]
            return self.base(*args, **kwargs)
        finally:
            for name, home in homes.items():
                home[name] = before[name]

    def live(self, name: str) -> torch.Tensor:
        """The module's own tensor."""
        tensor: torch.Tensor = self._home(name)[name]
        return tensor

    def stacked(self, groups: Sequence[Group], device: torch.device) -> Stack:
        """The factors of several choices as one batch, in the order of the last time, for which it is kept.

        Args:
            groups: parts of each choice.
            device: where they are needed.
        """
        if self.stack is None or self.stack.device != device or set(self.stack.groups) != set(groups):
            assert self.use is not None
            with torch.inference_mode(False):
                self.stack = Stack(groups, self.use, device)
        return self.stack

    def forget(self) -> None:
        """Give up what is kept for mixed batches."""
        self.stack = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Layer:
        """A copied model goes on with what applies now, whatever is selected later for this one."""
        copied = Layer.__new__(Layer)
        memo[id(self)] = copied
        action = self.action
        copied.__dict__ = {name: value for name, value in vars(self).items() if name in {"path", "use", "slot"}}
        copied.module = deepcopy(self.module, memo)
        copied.shadowed = deepcopy(self.shadowed, memo)
        copied.action = action
        copied.forget()
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, which takes along modules and not what skills add to them."""
        if self.action is not None:
            raise UsageError(
                f"A model cannot be pickled while skills apply to it in overlay mode ({self.path})",
                hint="Take them off first: host.ungraft(). What save_pretrained and state_dict save is the base.",
            )
        return vars(self) | {"stack": None}

    def _home(self, name: str) -> dict[str, Any]:
        own: dict[str, Any] = vars(self.module)
        home: dict[str, Any] = own["_parameters"] if name in own["_parameters"] else own["_buffers"]
        return home


@dataclass(eq=False)
class Uniform:
    """What one choice of skills makes of a layer, for all rows of a batch.

    Attributes:
        blends: tensors of the module that are replaced.
        added: what is added to the output, and how much of it.
    """

    blends: dict[str, Blend] = field(default_factory=dict)
    added: list[tuple[Part, float]] = field(default_factory=list)

    def run(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See `Action`."""
        out = self.replaced(layer, args, kwargs)
        if not self.added or layer.use is None:
            return out
        x = first_input(args, kwargs)
        return with_added(out, x, layer.use, lambda y, flat: self.add(layer, y, flat))

    def replaced(self, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The output with replaced tensors alone."""
        if not self.blends:
            return layer.base(*args, **kwargs)
        weights = {name: blend.get(layer.live(name)) for name, blend in self.blends.items()}
        return layer.with_weights(weights, args, kwargs)

    def add(self, layer: Layer, y: torch.Tensor, x: torch.Tensor) -> None:
        """Add all parts to an output, see `Part.add_to`."""
        for part, weight in self.added:
            if part.device != x.device:
                part.to(x.device)
            part.add_to(y, layer.use, x, weight)  # type: ignore[arg-type]


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The tensor that a module is called with first."""
    tensor: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
    return tensor
