"""A model in training, read as a checkpoint: weights come from memory, one at a time, in the base's dtypes."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skillpack.checkpoint import TensorInfo, read_json
from skillpack.companions import find_companions
from skillpack.delta import Renaming, find_renaming
from skillpack.errors import UnsupportedCheckpointError, WrongBaseError, listing
from skillpack.grafting.live_tensors import stored
from skillpack.skill import first_rows
from skillpack.tensors import DTYPE_BYTES, FLOAT_DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from skillpack.checkpoint import Checkpoint
    from skillpack.tensors import Factors, Floats

_WRAPPED: Final = ("_orig_mod.", "module.", "base_model.model.")
_PASSING: Final = ("use_cache", "dtype", "torch_dtype")
"""Settings that a trainer changes for the time of the training, and that say nothing about the fine-tune."""


@dataclass(frozen=True, eq=False)
class TrainedCheckpoint:
    """See `skillpack.checkpoint.Checkpoint`; not to be read while the model learns."""

    origin: str
    folder: Path | None
    tensors: Mapping[str, TensorInfo]
    companions: Mapping[str, Path]
    code_files: tuple[str, ...]
    _live: Mapping[str, torch.Tensor] = field(repr=False)

    def read(self, name: str) -> Tensor:
        """A copy of the weight as it is now, cast once to the base's dtype."""
        tensor, dtype = stored(self._live[name]), self.tensors[name].dtype
        return tensor if tensor.dtype == dtype else Tensor.from_float32(tensor.float32(), dtype)

    def update(self, name: str) -> Floats | None:  # noqa: ARG002
        """None: a model holds values, not updates."""
        return None

    def factors(self, name: str) -> Factors | None:  # noqa: ARG002
        """None: a model holds values, not factors."""
        return None

    def inherits(self, name: str) -> str | None:  # noqa: ARG002
        """None: any weight may have learned."""
        return None


def live_tensors(model: torch.nn.Module, base: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights of a model under the names that a checkpoint of it has; of a tied weight only the base's names.

    Adapters of PEFT are left out.

    Raises:
        UnsupportedCheckpointError: weights are divided among processes.
    """
    found: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if hasattr(tensor, "device_mesh") or hasattr(tensor, "ds_id"):
            raise UnsupportedCheckpointError(
                "the model's weights are divided among processes (FSDP, tensor parallel or ZeRO-3)",
                hint="Save the model when training is done, and pack the folder: skillpack pack BASE FOLDER.",
            )
        if "lora_" not in name and "modules_to_save" not in name and "token_adapter" not in name:
            found[_bare(name)] = tensor
    renaming = find_renaming(base.tensors, found)
    known = {renaming.apply(name) for name in base.tensors}
    seen = {id(found[name]) for name in known & found.keys()}
    kept = {}
    for name in sorted(found):
        if name in known or id(found[name]) not in seen:
            seen.add(id(found[name]))
            kept[name] = found[name]
    return kept


def trained_checkpoint(model: torch.nn.Module, base: Checkpoint, companions: Path) -> TrainedCheckpoint:
    """Read a model in memory as a fine-tune of `base`.

    Args:
        model: of transformers; without adapters.
        base: the base; weights of floats take its dtypes, new ones that of most of its tensors.
        companions: folder with config and tokenizer, as save_pretrained writes them.
    """
    live = live_tensors(model, base)
    renaming = find_renaming(base.tensors, live)
    dtypes = {renaming.apply(name): info.dtype for name, info in base.tensors.items()}
    usual = _usual_dtype(base)
    infos = {name: _info(name, live[name], dtypes.get(name, usual), companions) for name in sorted(live)}
    carried, code_files = find_companions(companions)
    return TrainedCheckpoint("the trained model", companions, infos, carried, code_files, live)


def write_settings(model: Any, processing_class: Any, base: Checkpoint, folder: Path) -> None:
    """Write config and tokenizer as save_pretrained does, without what training alone has changed in them."""
    config = copy.deepcopy(model.config)
    # Only the saving of whole models notes this, and a new head makes a new class.
    config.architectures = [type(model).__name__.removeprefix("FSDP")]
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    if processing_class is not None:
        processing_class.save_pretrained(folder)
    if "config.json" in base.companions:
        _restore_passing(folder / "config.json", read_json(base.companions["config.json"]))


def check_live_base(model: torch.nn.Module, base: Checkpoint) -> list[str]:
    """Check that a model that is about to be trained has the base's weights, in whatever dtype it was loaded.

    A base tensor is cast to the dtype of the live one and must then be the same, bit for bit. New tensors and new rows
    are the fine-tune's own; a weight that the live model lacks under its name is not compared, nor is a quantised one.

    Returns:
        Names of the base's tensors that are quantised in the model.

    Raises:
        WrongBaseError: names the tensors that differ.
    """
    live = live_tensors(model, base)
    renaming: Renaming = find_renaming(base.tensors, live)
    pairs = {renaming.apply(name): name for name in base.tensors}
    common = sorted(pairs.keys() & live.keys())
    floats = {name for name in common if base.tensors[pairs[name]].dtype in FLOAT_DTYPES}
    quantised = [name for name in common if name in floats and not live[name].is_floating_point()]
    compared = [name for name in common if name not in quantised]
    differing = [name for name in compared if not _same(base.read(pairs[name]), live[name])]
    if differing:
        raise WrongBaseError(
            f"The model to be trained was not loaded from {base.origin}: {len(differing)} of {len(pairs)} tensors "
            f"differ: {listing(differing)}",
            tensors=[pairs[name] for name in differing],
            hint="Give the callback the base that the training starts from.",
        )
    return [pairs[name] for name in quantised]


def _same(saved: Tensor, live: torch.Tensor) -> bool:
    found = stored(live)
    rows = min(saved.shape[:1] + found.shape[:1], default=0)
    if saved.shape[1:] != found.shape[1:] or len(saved.shape) != len(found.shape):
        return False
    if saved.shape != found.shape:
        saved, found = (first_rows(tensor, (rows, *saved.shape[1:])) for tensor in (saved, found))
    if saved.dtype != found.dtype and {saved.dtype, found.dtype} <= FLOAT_DTYPES:
        saved = Tensor.from_float32(saved.float32(), found.dtype)
    return saved.dtype == found.dtype and np.array_equal(saved.data, found.data)


def _bare(name: str) -> str:
    for wrapper in _WRAPPED:
        name = name.replace(wrapper, "") if wrapper != "module." else name.removeprefix(wrapper)
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _info(name: str, tensor: torch.Tensor, dtype: str, file: Path) -> TensorInfo:
    own = stored(tensor[:0] if tensor.dim() else tensor).dtype
    dtype = dtype if {own, dtype} <= FLOAT_DTYPES else own
    shape = tuple(tensor.shape)
    return TensorInfo(name, dtype, shape, file, math.prod(shape) * DTYPE_BYTES[dtype])


def _usual_dtype(base: Checkpoint) -> str:
    sizes: dict[str, int] = {}
    for info in base.tensors.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
    return max(sizes, key=lambda dtype: sizes[dtype])


def _restore_passing(file: Path, base: dict[str, Any]) -> None:
    config = read_json(file)
    for key in _PASSING:
        config.pop(key, None)
        if key in base:
            config[key] = base[key]
    file.write_text(json.dumps(config, indent=2) + "\n")
