"""Computing in fp32 with weights that stay as they are stored, bf16 and memory-mapped or whatever else.

A weight is widened when a module asks for it and forgotten when the module is done. Autograd does not keep it either:
it keeps the stored weight and widens that again in the backward pass, so no fp32 copy of a whole model ever exists.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

Sink = Callable[[str, torch.Tensor], None]
"""Called with the name of a weight and a gradient with respect to it, fp32 in the weight's shape."""

_STATE = "_fp32_state"


@dataclass
class _Shared:
    """What all modules of one model share: where gradients go, if somebody wants them."""

    sink: Sink | None = None


@dataclass
class _State:
    """What one module knows.

    Attributes:
        shared: the model's.
        names: attribute -> name of the weight within the model; tied weights have one name.
        held: attribute -> fp32 weight while the module's forward runs; None otherwise.
    """

    shared: _Shared
    names: Mapping[str, str]
    held: dict[str, torch.Tensor] | None = field(default=None, repr=False)


class _Saved(NamedTuple):
    """A view of a widened weight, as autograd keeps it."""

    stored: torch.Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: Any


def compute_in_fp32(model: torch.nn.Module) -> None:
    """Make all floating-point weights of a model look like fp32 to whoever computes with them.

    What `parameters` and `state_dict` give stays as it is stored. A weight is to be changed there: as an attribute of
    its module it is a copy, unless it is fp32.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    shared = _Shared()
    for module in model.modules():
        own = {
            attribute: names[parameter]
            for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
            if parameter.is_floating_point()
        }
        if own or module is model:
            vars(module)[_STATE] = _State(shared, own)
            original: Any = type(module)
            module.__class__ = _widening(original, tuple(own))


@contextmanager
def weight_gradients(model: torch.nn.Module, sink: Sink) -> Iterator[None]:
    """While this lasts, backward passes hand every gradient of a weight to `sink` and keep none.

    A weight that is used several times in a pass, a tied one for example, gives a gradient for each use; their sum is
    the gradient of the weight.

    Args:
        model: one that `compute_in_fp32` has prepared.
        sink: called during the backward pass.
    """
    shared = _state(model).shared
    weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    wanted = [parameter.requires_grad for parameter in weights]
    try:
        shared.sink = sink
        for parameter in weights:
            parameter.requires_grad_(True)
        yield
    finally:
        shared.sink = None
        for parameter, before in zip(weights, wanted, strict=True):
            parameter.requires_grad_(before)


class _Widened(torch.autograd.Function):
    """A weight as fp32, whose gradient goes to a sink instead of the weight."""

    @staticmethod
    def forward(ctx: Any, stored: torch.Tensor, name: str, sink: Sink) -> torch.Tensor:
        ctx.name, ctx.sink = name, sink
        return stored.view_as(stored) if stored.dtype == torch.float32 else stored.float()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None, None]:
        ctx.sink(ctx.name, gradients[0])
        return None, None, None


@functools.cache
def _widening(original: Any, attributes: tuple[str, ...]) -> type[torch.nn.Module]:
    """A subclass whose weights are fp32; a class, since other modules may read them too (``self.wo.weight.dtype``)."""

    @functools.wraps(original.forward)
    def forward(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if original is torch.nn.Embedding and _only_looked_up(self):
            return torch.nn.Embedding.forward(_Rows(self), *args, **kwargs).float()  # type: ignore[arg-type]
        with _holding(self):
            return original.forward(self, *args, **kwargs)

    members: dict[str, Any] = {name: property(functools.partial(_wide, attribute=name)) for name in attributes}
    return type(original.__name__, (original,), {"__module__": original.__module__, "forward": forward, **members})


class _Rows:
    """An embedding whose rows are widened after they are looked up, which spares widening all of them."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return _stored(self._module, name) if name == "weight" else getattr(self._module, name)


def _only_looked_up(module: torch.nn.Module) -> bool:
    learned = torch.is_grad_enabled() and _stored(module, "weight").requires_grad
    return not learned and getattr(module, "max_norm", None) is None


def _wide(module: torch.nn.Module, attribute: str) -> torch.Tensor:
    state = _state(module)
    if state.held is not None and attribute in state.held:
        return state.held[attribute]
    stored = _stored(module, attribute)
    if state.shared.sink is not None and stored.requires_grad:
        wide = _Widened.apply(stored, state.names[attribute], state.shared.sink)  # type: ignore[no-untyped-call]
    else:
        wide = stored.float()
    if state.held is not None:
        state.held[attribute] = wide
    return wide


@contextmanager
def _holding(module: torch.nn.Module) -> Iterator[None]:
    """Widen each weight of a module once, and only once, while its forward runs."""
    state = _state(module)
    if state.held is not None:
        yield
        return
    held = state.held = {}
    try:
        with _rewidened(module, held):
            yield
    finally:
        state.held = None
        # Autograd keeps the hooks, and they know this.
        held.clear()


def _rewidened(module: torch.nn.Module, held: Mapping[str, torch.Tensor]) -> AbstractContextManager[Any]:
    """Let autograd save the stored weights in place of those that are held."""
    if not torch.is_grad_enabled():
        return nullcontext()

    def pack(tensor: torch.Tensor) -> torch.Tensor | _Saved:
        for attribute, wide in held.items():
            stored = _stored(module, attribute)
            if stored.dtype != torch.float32 and _same_storage(wide, tensor):
                return _Saved(stored.detach(), tensor.size(), tensor.stride(), tensor.storage_offset())
        # An operation that saved what came out of it, as that is, would keep itself alive.
        return tensor.detach()

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


def _unpack(saved: torch.Tensor | _Saved) -> torch.Tensor:
    if not isinstance(saved, _Saved):
        return saved
    return saved.stored.float().as_strided(saved.size, saved.stride, saved.offset)


def _same_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _stored(module: torch.nn.Module, attribute: str) -> torch.Tensor:
    # The subclass hides the weight behind a property; this is where nn.Module itself looks.
    stored = torch.nn.Module.__getattr__(module, attribute)
    return cast("torch.Tensor", stored)


def _state(module: torch.nn.Module) -> _State:
    state: _State = vars(module)[_STATE]
    return state
