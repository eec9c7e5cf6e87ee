"""Whether a torch device is there."""

from __future__ import annotations

from typing import Final

from skillpack.errors import UsageError

_HINT: Final = "Choose cpu, or cuda, cuda:1, mps where this installation of torch supports them."


def check_device(device: str) -> None:
    """Do a little work on a torch device.

    Raises:
        UsageError: there is no such device in this process.
    """
    import torch

    try:
        sound = float((torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).sum()) == 8
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise UsageError(f"device {device!r} cannot be used: {reason}", hint=_HINT) from error
    if not sound:
        raise UsageError(f"device {device!r} cannot be used: it multiplies wrongly", hint=_HINT)
