"""The base as a live model to be served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.checkpoint import locate
from skillpack.errors import CheckpointError, UsageError
from skillpack.live.models import quiet

if TYPE_CHECKING:
    from pathlib import Path

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_base(source: str | Path, device: str | None, dtype: str | None) -> tuple[Any, Path]:
    """Open a base; no code of its own is run.

    Args:
        source: a model folder or a Hub id.
        device: such as ``cuda:1``; by default a GPU if there is one.
        dtype: a key of `DTYPES`; by default fp32 on a CPU, and the checkpoint's elsewhere.

    Returns:
        The model in evaluation mode, and its folder.

    Raises:
        CheckpointError: transformers cannot open it as a language model.
        UsageError: there is no such device or dtype.
    """
    from transformers import AutoModelForCausalLM

    folder, origin = locate(source)
    place = _device(device)
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"{dtype!a} is no dtype", hint=f"Choose one of {', '.join(DTYPES)}.")
    wanted: Any = DTYPES[dtype] if dtype is not None else torch.float32 if place.type == "cpu" else "auto"
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=wanted, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        model.requires_grad_(requires_grad=False).eval().to(place)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{origin} cannot be opened as a language model: {first}") from error
    return model, folder


def _device(name: str | None) -> torch.device:
    try:
        return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UsageError(f"{name!a} is no device", hint="Write cpu, cuda or cuda:1.") from error
