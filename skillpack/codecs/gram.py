"""Singular values and vectors from the Gram matrix, on any torch device.

The Gram matrix squares the condition number, so singular values below 1e-8 of the largest are noise; a codec's step is
far above that. Devices without float64 (mps) multiply in fp32 and leave the sums and the eigenvectors to the CPU, and
there values below about 3e-4 of the largest are noise.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from skillpack.errors import SkillPackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skillpack.tensors import Doubles, Floats

_WITHOUT_FLOAT64: Final = ("mps",)


def principal(blocks: Iterable[Floats], length: int, device: str = "cpu") -> tuple[Doubles, Doubles]:
    """Singular values, descending, and right singular vectors of a tall matrix.

    Args:
        blocks: its rows, fp32 of shape (any, length).
        length: number of its columns.
        device: torch device that does the work.

    Returns:
        fp64 of shapes (length,) and (length, length), vectors being columns.

    Raises:
        SkillPackError: the device has too little memory.
    """
    import torch

    single = device.partition(":")[0] in _WITHOUT_FLOAT64
    with enough_memory(f"the Gram matrix of {length:,} columns", device):
        gram = torch.zeros((length, length), dtype=torch.float64, device="cpu" if single else device)
        for block in blocks:
            # A copy of torch's own: the order in which sums are taken may depend on where in memory things are.
            piece = torch.tensor(block, dtype=torch.float32 if single else torch.float64, device=device)
            if single:
                gram += (piece.T @ piece).cpu()
            else:
                gram.addmm_(piece.T, piece)
        squares, vectors = torch.linalg.eigh(gram)
        return squares.flip(0).clamp_min(0).sqrt().cpu().numpy(), vectors.flip(1).cpu().numpy()


def in_coordinates(blocks: Iterable[Floats], vectors: Floats, device: str = "cpu") -> Iterator[Floats]:
    """Each block of rows, fp32 of shape (any, length), times vectors of shape (length, rank).

    Raises:
        SkillPackError: the device has too little memory.
    """
    import torch

    with enough_memory(f"a projection on {vectors.shape[1]:,} directions", device):
        directions = torch.tensor(vectors, dtype=torch.float32, device=device)
        for block in blocks:
            yield (torch.tensor(block, device=device) @ directions).cpu().numpy()


@contextmanager
def enough_memory(what: str, device: str) -> Iterator[None]:
    """Say what a device had too little memory for.

    Raises:
        SkillPackError: within the block it had.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SkillPackError(
            f"device {device} has too little memory for {what}", hint="Pack on the CPU, or with fewer --workers."
        ) from error
