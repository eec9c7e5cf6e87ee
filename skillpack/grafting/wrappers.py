"""Which modules can be hosts of skills, and what has to be taken off around them first."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import torch

from skillpack.errors import UnsupportedModelError

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter, torch.nn.parameter.Buffer)
_ON_DISK: Final = "Install the skill on the checkpoint folder (skillpack install) and load that."
_ITEM_BYTES: Final = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
_FLOATS: Final = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The module itself, without torch.compile, DistributedDataParallel and DataParallel around it."""
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            model = model.module
        elif isinstance(inner := vars(model).get("_modules", {}).get("_orig_mod"), torch.nn.Module):
            model = inner
        else:
            return model


def check_model(model: torch.nn.Module) -> None:
    """Refuse a model whose weights are not there as the checkpoint has them.

    Args:
        model: an unwrapped one.

    Raises:
        UnsupportedModelError: quantised, split over processes (FSDP, tensor parallel, DeepSpeed ZeRO-3), not yet
            initialised, or with the adapters of PEFT in it.
    """
    if getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None):
        _refuse_quantised(f"by {getattr(model, 'quantization_method', 'its loader')}")
    for name, module in model.named_modules():
        _check_module(name, module)
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in named:
        _check_tensor(name, tensor)


def _check_module(name: str, module: torch.nn.Module) -> None:
    home = type(module).__module__
    if type(module).__name__ == "FullyShardedDataParallel":
        _refuse_sharded(name or "the model", "FSDP")
    if home.startswith("peft."):
        raise UnsupportedModelError(
            f"The model has adapters of PEFT in it ({name or type(module).__name__})",
            hint="Take them off first: model = model.unload(), or merge_and_unload() and host that.",
        )
    if home.startswith(("torch.ao.nn.", "bitsandbytes.", "torchao.")):
        _refuse_quantised(f"{name} is a {type(module).__name__} of {home.partition('.nn')[0]}")


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    kind: Any = type(tensor)
    if torch.nn.parameter.is_lazy(tensor):
        raise UnsupportedModelError(f"{name} has no values yet", hint="Run the model once, or load its weights.")
    if kind.__name__ == "DTensor" or isinstance(tensor.data, _dtensor()):
        _refuse_sharded(name, "FSDP or tensor parallelism")
    if hasattr(tensor, "ds_id"):
        _refuse_sharded(name, "DeepSpeed")
    if kind not in _PLAIN:
        _refuse_quantised(f"{name} is a {kind.__module__.partition('.')[0]} {kind.__name__}")
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.dtype not in _ITEM_BYTES | _FLOATS:
        _refuse_quantised(f"{name} is {tensor.dtype}, {tensor.layout}")


def _dtensor() -> Any:
    if not torch.distributed.is_available():
        return ()
    from torch.distributed.tensor import DTensor

    return DTensor


def _refuse_sharded(name: str, how: str) -> NoReturn:
    raise UnsupportedModelError(
        f"The weights are split over processes by {how} ({name}), so that none has what a skill's digests are about",
        hint=_ON_DISK,
    )


def _refuse_quantised(what: str) -> NoReturn:
    raise UnsupportedModelError(
        f"The weights are quantised or packed ({what}), so they are no longer the base that skills are exact on",
        hint="Load the base in bf16, fp16 or fp32. " + _ON_DISK,
    )
