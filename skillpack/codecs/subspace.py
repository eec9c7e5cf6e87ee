"""The strongest singular directions of a large matrix, without all the others: randomised subspace iteration.

Halko, Martinsson and Tropp, "Finding structure with randomness" (arXiv:0909.4061), algorithm 4.4 with Rayleigh and
Ritz's procedure on the Gram matrix at its end (their section 5.2): a random subspace is multiplied with the matrix and
its transpose a few times, which turns it towards the strong directions. How many are strong enough is not known before,
so the subspace grows until it holds some that are not.

Singular values come out too small rather than too large, the weakest by some percent where the spectrum falls slowly;
directions there mix with others that are about as strong. What is coded is the projection of the matrix on them, so no
error arises that coding does not know of: what a mixed direction misses is left out like a weak column.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from skillpack.codecs.gram import enough_memory, in_coordinates, principal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from skillpack.tensors import Doubles, Floats

_FIRST: Final = 1 / 16
_MOST: Final = 1 / 3
"""Shares of all directions: of the first subspace, and from which on it is faster to find all by the Gram matrix."""
_TURNS: Final = 5
"""How often a subspace is multiplied with the Gram matrix."""
_SPARE: Final = 1 / 4
"""Share of a subspace whose directions are too uncertain to be used."""
_LEAST: Final = 8
"""Directions in the first subspace beside its share."""
_ROOM: Final = 1.25
"""How much larger a subspace is than the expected rank asks for."""
_FLAT: Final = 1e-3
"""Exponent of a power law below which a spectrum is flat."""
_FAR: Final = 20
"""Logarithm of a growth that is more than enough to give up."""
_SEED: Final = 1


class Strongest(NamedTuple):
    """Singular values above a threshold and their directions.

    Attributes:
        values: descending; fp64 of shape (rank,).
        vectors: on the shorter side; fp64 of shape (length, rank).
    """

    values: Doubles
    vectors: Doubles


def strongest(
    blocks: Callable[[], Iterable[Floats]], length: int, threshold: float, device: str = "cpu"
) -> Strongest | None:
    """Singular values of a tall matrix above a threshold, and right singular vectors.

    Args:
        blocks: gives the matrix's rows, fp32 of shape (any, length), as often as it is called.
        length: number of its columns.
        threshold: singular values below are not wanted.
        device: torch device that does the work.

    Returns:
        None where so many directions are that strong that it is faster to find all of them.

    Raises:
        SkillPackError: the device has too little memory.
    """
    import torch

    random = torch.Generator().manual_seed(_SEED)
    size, most = _LEAST + math.ceil(_FIRST * length), int(_MOST * length)
    subspace = torch.empty(length, 0, device=device)
    with enough_memory(f"a subspace of {length:,} columns", device):
        while size <= most:
            more = torch.randn(length, size - subspace.shape[1], generator=random)
            values, subspace = _turned(blocks, torch.cat([subspace, more.to(device)], dim=1), device)
            usable = values[: size - math.ceil(_SPARE * size)]
            rank = int((usable > threshold).sum())
            if rank < len(usable):
                return Strongest(usable[:rank], subspace[:, :rank].double().cpu().numpy())
            size = _size_for(usable, threshold)
    return None


def _turned(
    blocks: Callable[[], Iterable[Floats]], subspace: torch.Tensor, device: str
) -> tuple[Doubles, torch.Tensor]:
    """Singular values within a subspace that is first turned towards the strong directions, and those directions."""
    import torch

    for _ in range(_TURNS):
        image = torch.zeros_like(subspace)
        for block in blocks():
            piece = torch.tensor(block, dtype=torch.float32, device=device)
            image.addmm_(piece.T, piece @ subspace)
        subspace = torch.linalg.qr(image).Q
    products = in_coordinates(blocks(), subspace.cpu().numpy(), device)
    values, directions = principal(products, subspace.shape[1], device)
    return values, subspace @ torch.tensor(directions, dtype=torch.float32, device=device)


def _size_for(values: Doubles, threshold: float) -> int:
    """How large a subspace has to be, were the spectrum a power law, of which all values so far are wanted."""
    middle, last = len(values) // 2, len(values)
    slope = math.log(values[middle - 1] / values[last - 1]) / math.log(last / middle)
    further = math.log(values[last - 1] / threshold) / max(slope, _FLAT)
    return math.ceil(_ROOM * last * math.exp(min(further, _FAR)) / (1 - _SPARE))
