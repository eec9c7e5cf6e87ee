"""Live tensors of torch and tensors as a checkpoint stores them, one from the other, bit for bit."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import torch

from skillpack.tensors import FLOAT_DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

DTYPES: Final[dict[torch.dtype, str]] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
TORCH_DTYPES: Final = {name: dtype for dtype, name in DTYPES.items()}
_NARROW_FIRST: Final = ("BF16", "F16", "F32", "F64")


def stored(values: torch.Tensor) -> Tensor:
    """Live values as a checkpoint of their dtype would store them; a view where they lie on the CPU in order.

    Raises:
        TypeError: a checkpoint has no such dtype.
    """
    flat = values.detach().cpu().contiguous().reshape(-1)
    if values.dtype not in DTYPES:
        return Tensor.of(flat.numpy().reshape(tuple(values.shape)))
    return Tensor(DTYPES[values.dtype], tuple(values.shape), flat.view(torch.uint8).numpy())


def live(tensor: Tensor) -> torch.Tensor:
    """A stored tensor as torch's, on the CPU; a view unless the bytes are read-only."""
    data = tensor.data if tensor.data.flags.writeable else tensor.data.copy()
    return torch.from_numpy(data).view(TORCH_DTYPES[tensor.dtype]).reshape(tensor.shape)


def origins(values: torch.Tensor) -> Iterator[Tensor]:
    """What a checkpoint can have held for these values to be loaded from it, as far as the values themselves prove it.

    The values as they are; then, for floating-point numbers, every other dtype that holds all of them exactly: a bf16
    checkpoint that was loaded as fp32 comes back so. A dtype that lost something while loading does not.
    """
    own = DTYPES[values.dtype]
    yield stored(values)
    if own not in FLOAT_DTYPES:
        return
    for dtype in _NARROW_FIRST:
        if dtype != own:
            cast = values.to(TORCH_DTYPES[dtype])
            if same_bits(cast.to(values.dtype), values):
                yield stored(cast)


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors of one dtype and shape are the same to the bit, NaN and the sign of zero included."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[left.element_size()]
    return torch.equal(left.detach().view(whole), right.detach().to(left.device).view(whole))


def write(target: torch.Tensor, values: torch.Tensor) -> None:
    """Write values into a live tensor in place, so that whatever shares its memory sees them.

    The version counter moves on as for every in-place operation: autograd refuses a backward pass through what was
    computed from the former values.
    """
    # What was made in inference mode may be written in it only.
    mode: AbstractContextManager[Any] = torch.inference_mode() if target.is_inference() else nullcontext()
    with mode, torch.no_grad():
        target.copy_(values, non_blocking=values.device != target.device and values.is_pinned())


def stamp(tensor: torch.Tensor) -> tuple[int, int | None]:
    """Changes whenever somebody writes to a tensor in place or gives it other memory, but through ``.data``."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version  # noqa: SLF001 - torch has no other
