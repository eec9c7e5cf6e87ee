"""The modules of the model that a skill makes of its base, found without loading a weight."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from skillpack.companions import apply
from skillpack.delta import find_renaming
from skillpack.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from skillpack.checkpoint import Checkpoint
    from skillpack.installing.claims import Active

Kind = Literal["linear", "turned linear", "embedding", "convolution", "other"]
"""Of a module, as far as adapters differ: "turned linear" keeps its weight as [in, out], as GPT-2's Conv1D does."""
CONFIG: Final = "config.json"


@dataclass(frozen=True)
class Place:
    """Where a tensor of the installed checkpoint is in the live model.

    Attributes:
        module: full name of the module.
        attribute: name of the parameter or buffer in it.
        kind: of the module.
        shape: of the live tensor.
        is_leaf: the module has no modules within it.
    """

    module: str
    attribute: str
    kind: Kind
    shape: tuple[int, ...]
    is_leaf: bool


@dataclass(frozen=True)
class Structure:
    """The live model.

    Attributes:
        model_class: its name.
        places: installed tensor -> its places; several for a tied one that is stored once. Tensors that the live model
            does not have under their own name are left out.
        own: module -> attribute -> installed tensor, of leaf modules.
    """

    model_class: str
    places: Mapping[str, tuple[Place, ...]]
    own: Mapping[str, Mapping[str, str]]


def find_structure(base: Checkpoint, active: Active, tensors: Iterable[str]) -> Structure:
    """The model that transformers opens for a base with a skill.

    Args:
        base: the base; its config.json, as the skill changes it, names the class.
        active: the skill.
        tensors: names of the tensors of the installed checkpoint.

    Raises:
        UsageError: the base is a lone file.
        CheckpointError: transformers cannot tell the model from its config.json.
    """
    from skillpack.live.models import bare_model

    if CONFIG not in base.companions:
        raise UsageError(
            f"{base.origin} has no config.json, so what modules the model has cannot be known",
            hint="Give the base as a model folder or a Hub id.",
        )
    with tempfile.TemporaryDirectory(prefix="skillpack-") as room:
        (Path(room) / CONFIG).write_bytes(installed_file(base, active, CONFIG))
        try:
            model = bare_model(Path(room))
        except CheckpointError as error:
            # The folder that the message names was ours.
            raise type(error)(str(error).replace(room, base.origin), hint=error.hint) from error
    return _structure(model, tensors)


def installed_file(base: Checkpoint, active: Active, path: str) -> bytes:
    """A file beside the weights, with the skill's change to it."""
    current = base.companions[path].read_bytes() if path in base.companions else None
    for change in active.skill.file_changes():
        if change.path == path:
            return apply(change, current)
    return current or b""


def _structure(model: torch.nn.Module, tensors: Iterable[str]) -> Structure:
    tensors = list(tensors)
    live = dict(model.state_dict(keep_vars=True))
    names = find_renaming(dict.fromkeys(tensors), live)
    ties: dict[int, list[str]] = {}
    for name, tensor in live.items():
        ties.setdefault(id(tensor), []).append(name)
    stored = {names.apply(name) for name in tensors}
    places: dict[str, tuple[Place, ...]] = {}
    own: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        if names.apply(name) not in live:
            continue
        # What is tied but stored under a name of its own has a value of its own.
        tied = ties[id(live[names.apply(name)])]
        found = [names.apply(name), *(other for other in tied if other not in stored)]
        places[name] = tuple(_place(model, other, tuple(live[other].shape)) for other in found)
        for place in places[name]:
            own.setdefault(place.module, {})[place.attribute] = name
    return Structure(type(model).__name__, places, own)


def _place(model: torch.nn.Module, name: str, shape: tuple[int, ...]) -> Place:
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    return Place(path, attribute, _kind(module), shape, next(module.children(), None) is None)


def _kind(module: torch.nn.Module) -> Kind:
    import torch
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, Conv1D):
        return "turned linear"
    # A class of its own may use its weight in a way of its own, which no adapter knows.
    if type(module) is torch.nn.Linear:
        return "linear"
    if isinstance(module, torch.nn.Embedding):
        return "embedding"
    convolutions = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    return "convolution" if type(module) in convolutions and module.groups == 1 else "other"
