"""Where the tensors of a checkpoint live in a running model.

Most are parameters or buffers of the same name. transformers also loads checkpoints whose names or forms differ from
its modules', such as experts that are stored one by one and live in one fused tensor; what it would save them as says
where in the fused tensor each one is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from skillpack.errors import UnsupportedModelError
from skillpack.grafting.offloading import offloaded_tensor
from skillpack.grafting.wrappers import check_model, unwrap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Owner = tuple[torch.nn.Module, str]
"""A module and the name of its attribute."""


class Part(NamedTuple):
    """A part of a live tensor, as a strided view of it.

    Attributes:
        shape: of the part.
        stride: elements to step over, for each dimension.
        offset: elements from the live tensor's first one to the part's.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, eq=False)
class Place:
    """Where one tensor of the base checkpoint lives in a running model.

    Attributes:
        name: in the checkpoint.
        tensor: the live parameter or buffer; where accelerate keeps the weight on the CPU, what it copies from.
        owners: every module and attribute that holds it; several for tied weights and shared modules.
        part: where in `tensor` it is; None if it is all of it.
    """

    name: str
    tensor: torch.Tensor
    owners: tuple[Owner, ...]
    part: Part | None = None

    @property
    def values(self) -> torch.Tensor:
        """The values as they are now: a view that shares memory and version counter with the live tensor."""
        live = self.tensor.detach()
        if self.part is None:
            return live
        return live.as_strided(self.part.shape, self.part.stride, live.storage_offset() + self.part.offset)

    @property
    def shape(self) -> tuple[int, ...]:
        """As the checkpoint has it."""
        return tuple(self.tensor.shape) if self.part is None else self.part.shape

    @property
    def extent(self) -> tuple[int, Part]:
        """The same for places that are the same memory, and only for those."""
        return id(self.tensor), self.part or _whole(self.tensor)


class Places(Mapping[str, Place]):
    """Name -> place. Names that only an older checkpoint has are found too, but not listed.

    Args:
        places: by the names of today.
        prefix: that names in the checkpoint of the bare model lack (transformers' `base_model_prefix`), or "".
        renamings: transformers' rules from a checkpoint's names to the module's.
    """

    def __init__(self, places: Mapping[str, Place], prefix: str, renamings: Sequence[Any]) -> None:
        self._places = places
        self._prefix = prefix
        self._renamings = renamings

    def __getitem__(self, name: str) -> Place:
        for candidate in self._candidates(name):
            if candidate in self._places:
                return self._places[candidate]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _candidates(self, name: str) -> Iterator[str]:
        yield from self._with_prefix(name)
        renamed = name
        for renaming in self._renamings:
            renamed, _ = renaming.rename_source_key(renamed)
        if renamed != name:
            yield from self._with_prefix(renamed)

    def _with_prefix(self, name: str) -> Iterator[str]:
        yield name
        if self._prefix:
            yield f"{self._prefix}.{name}"
            yield name.removeprefix(f"{self._prefix}.")


def find_places(model: torch.nn.Module) -> Mapping[str, Place]:
    """Find the places of all tensors that a checkpoint of a model can have, by any name that it can have there.

    Args:
        model: the live model; torch.compile and DistributedDataParallel around it are looked through.

    Returns:
        Name -> place; names of tied weights and of fused ones have a place each. Names that are not listed can be
        asked for as well: those without the prefix of the bare model, or with it, and those of older checkpoints.

    Raises:
        UnsupportedModelError: the weights are not there as a checkpoint has them; says why.
    """
    inner = unwrap(model)
    check_model(inner)
    tensors, owners = _live_tensors(inner)
    places = {name: Place(name, tensor, tuple(owners[id(tensor)])) for name, tensor in tensors.items()}
    by_storage: dict[int, list[torch.Tensor]] = {}
    for tensor in tensors.values():
        by_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    for name, view in _saved_views(inner, tensors).items():
        for tensor in by_storage.get(view.untyped_storage().data_ptr(), ()):
            part = _part(view, tensor)
            if part is not None:
                whole = part == _whole(tensor)
                places.setdefault(name, Place(name, tensor, tuple(owners[id(tensor)]), None if whole else part))
    prefix = getattr(inner, "base_model_prefix", "")
    return Places(places, prefix if isinstance(prefix, str) else "", _renamings(inner))


def _renamings(model: torch.nn.Module) -> list[Any]:
    try:
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming
    except ImportError:  # transformers before version 5
        return []
    if not isinstance(model, PreTrainedModel):
        return []
    # Rules note whether they were ever used, which matters to those who save the model, so these are copies.
    return [copy.deepcopy(rule) for rule in get_model_conversion_mapping(model) if type(rule) is WeightRenaming]


def _live_tensors(model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[int, list[Owner]]]:
    """Name -> tensor, and id of a tensor -> who holds it."""
    tensors: dict[str, torch.Tensor] = {}
    owners: dict[int, list[Owner]] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for attribute, own in _own_tensors(module):
            name = f"{prefix}.{attribute}" if prefix else attribute
            tensor = offloaded_tensor(module, attribute, name) if own.is_meta else own
            tensors[name] = tensor
            held = owners.setdefault(id(tensor), [])
            if not any(holder is module and attribute == known for holder, known in held):
                held.append((module, attribute))
    if not tensors:
        raise UnsupportedModelError(f"{type(model).__name__} has no weights")
    return tensors, owners


def _own_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and saved buffers of a module itself."""
    unsaved = module._non_persistent_buffers_set  # noqa: SLF001 - there is no public way to tell
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        if name not in unsaved:
            yield name, buffer


class _Views(TorchFunctionMode):
    """Within this, tensors that ask to be contiguous stay views."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.contiguous:
            return args[0]
        return func(*args, **(kwargs or {}))


def _saved_views(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What transformers would save the model's tensors as; views of them wherever it only cuts and turns."""
    try:
        from transformers import PreTrainedModel
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers before version 5 saves what lives
        return {}
    if not isinstance(model, PreTrainedModel):
        return {}
    with torch.no_grad(), _Views():
        return revert_weight_conversion(model, {name: tensor.detach() for name, tensor in tensors.items()})


def _part(view: torch.Tensor, tensor: torch.Tensor) -> Part | None:
    """Where in a tensor a view is that shares its memory; None if it is not within it."""
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
    offset = int(view.storage_offset()) - int(tensor.storage_offset())
    if view.dtype != tensor.dtype or not view.numel() or offset < 0 or offset + last >= tensor.numel():
        return None
    return Part(tuple(view.shape), view.stride(), offset)


def _whole(tensor: torch.Tensor) -> Part:
    return Part(tuple(tensor.shape), tensor.stride(), 0)
