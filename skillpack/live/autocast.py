"""Training in bf16 only where bf16 is the faster one.

On a processor without arithmetic of its own for it, torch emulates bf16: a training step of a small language model then
takes three times as long as in fp32, which is also more precise.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

_CPU_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")
"""Names in `torch.cpu.get_capabilities`; the last one is ARM's."""


def autocast(device: str | torch.device) -> AbstractContextManager[Any]:
    """A context in which matrix products are bf16 if the device computes with that, and fp32 otherwise.

    Args:
        device: where the model is.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=torch.bfloat16) if _computes_in_bf16(kind) else nullcontext()


def _computes_in_bf16(kind: str) -> bool:
    if kind == "cpu":
        # torch before 2.10 cannot tell.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name, False) for name in _CPU_FEATURES)
    return kind != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
