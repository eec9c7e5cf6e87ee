"""What a skill adds to the output of a module: its delta of the module's weight, applied without forming the weight.

The arithmetic is fp32 throughout: inputs and factors are widened, and the sum is cast once to the dtype of the output.
"""

from __future__ import annotations

import threading
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from skillpack.codecs.protocol import DeltaFactors
    from skillpack.tensors import Floats

_FEW_ROWS: Final = 4
"""Rows are kept alone if at most one in so many is not zero."""
_FEW_ENTRIES: Final = 20
"""The same for entries: a sparse product takes about as much longer for each."""
_WIDENED: Final = 1 << 19
"""Entries of a factor that are widened at a time, so that they are multiplied before they leave a processor's cache."""

_SMALL: Final = 1 << 18
"""Entries below which fresh memory costs nothing worth mentioning."""


class Use(Enum):
    """How a module uses its matrix."""

    LINEAR = "x @ W.T"
    TRANSPOSED = "x @ W"
    LOOKUP = "W[x]"


class Part:
    """A delta of a matrix.

    Attributes:
        anchor: name of an attribute that is one of its tensors.
    """

    anchor = "values"

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is kept, by attribute."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(_nbytes(value) for value in self.tensors().values())

    def to(self, device: torch.device) -> None:
        """Move to a device."""
        for name, value in self.tensors().items():
            setattr(self, name, value.to(device))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        where: torch.device = getattr(self, self.anchor).device
        return where

    def apply(self, use: Use, x: torch.Tensor) -> torch.Tensor:
        """What the delta makes of an input.

        Args:
            use: how the module uses the matrix.
            x: fp32 of shape (tokens, inputs), or for lookups int64 of shape (tokens,).

        Returns:
            fp32 of shape (tokens, outputs).
        """
        raise NotImplementedError

    def add_to(self, y: torch.Tensor, use: Use, x: torch.Tensor, weight: float) -> None:
        """Add that to an output, in place.

        Args:
            y: of shape (tokens, outputs); may be a view.
            use: see `apply`.
            x: see `apply`.
            weight: factor.
        """
        y.add_(self.apply(use, x), alpha=weight)


class Factors(Part):
    """A product of two thin matrices.

    Factors stay as narrow as a skill has them. For few tokens they take as long as reading them takes, and what is
    widened is multiplied at once.

    Attributes:
        near: of shape (columns, rank); int16 or fp32.
        far: of shape (rank, rows), in this order since products of few tokens take a third of the time so.
        scales: fp32 of shape (rank,); what each column of `near` is multiplied by.
    """

    anchor = "near"

    def __init__(self, factors: DeltaFactors) -> None:
        self.near = torch.from_numpy(np.ascontiguousarray(factors.columns))
        self.far = torch.from_numpy(np.ascontiguousarray(factors.rows.T))
        self.scales = torch.from_numpy(factors.scales)

    @property
    def rank(self) -> int:
        """Of the product."""
        return self.near.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix."""
        return self.far.shape[1], self.near.shape[0]

    def sides(self, use: Use) -> tuple[torch.Tensor, torch.Tensor]:
        """What an input meets first, of shape (inputs, rank), and then, of shape (rank, outputs); views.

        What comes from the first is multiplied by the scales before it meets the second.
        """
        if use is Use.LINEAR:
            return self.near, self.far
        return self.far.T, self.near.T

    def apply(self, use: Use, x: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        first, second = self.sides(use)
        y = x.new_zeros((x.shape[0], second.shape[1]), dtype=torch.float32)
        add_product(y, self._reduced(use, first, x), second)
        return y

    def add_to(self, y: torch.Tensor, use: Use, x: torch.Tensor, weight: float) -> None:
        """See `Part`."""
        first, second = self.sides(use)
        add_product(y, self._reduced(use, first, x), second, weight)

    def add_to_matrix(self, matrix: torch.Tensor, weight: float) -> None:
        """Add the product itself, times a weight, to an fp32 matrix, in place."""
        self.to(matrix.device)
        add_product(matrix, self.far.T.float() * self.scales, self.near.T, weight)

    def _reduced(self, use: Use, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.embedding(x, first).float() if use is Use.LOOKUP else x @ widened(first)
        return found * self.scales


class _Scratch(threading.local):
    """Memory of each thread for what is widened. Fresh memory would take longer than widening: the system clears it."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0)


_SCRATCH: Final = _Scratch()


def widened(factor: torch.Tensor) -> torch.Tensor:
    """A factor in fp32; if need be in memory that the next call of the same thread writes to."""
    easy = factor.dtype == torch.float32 or factor.numel() < _SMALL
    if easy or factor.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return factor.float()
    count = factor.numel()
    if _SCRATCH.buffer.numel() < count:
        with torch.inference_mode(False):
            _SCRATCH.buffer = torch.empty(max(_WIDENED, count))
    return _SCRATCH.buffer[:count].view(factor.shape).copy_(factor)


def add_product(y: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: float = 1.0) -> None:
    """Add x @ factor to an output, in place.

    Args:
        y: of shape (tokens, outputs); may be a view.
        x: fp32 of shape (tokens, rank).
        factor: of shape (rank, outputs) and any dtype.
        weight: what the product is multiplied by.
    """
    outputs = factor.shape[1]
    width = max(1, min(outputs, _WIDENED // max(1, factor.shape[0])))
    for start in range(0, outputs, width):
        out, some = (y, factor) if width == outputs else (whole[:, start : start + width] for whole in (y, factor))
        if out.dtype == torch.float32:
            out.addmm_(x, widened(some), alpha=weight)
        else:
            out.add_(x @ widened(some), alpha=weight)


Groups = tuple[tuple[tuple[Factors, float], ...], ...]
"""The parts of several choices of skills, each with its weight."""


class Stack:
    """Factors of several choices as one batch, so that each token meets those of its own choice and no others.

    Attributes:
        first: of shape (choices, inputs, rank); int16 or fp32. Shorter ones end in zeros, as below.
        second: blocks of outputs, each of shape (choices, rank, some outputs) and small enough to be widened in one go.
        scales: fp32 of shape (choices, 1, rank), weights included.
    """

    def __init__(self, first: torch.Tensor, second: list[torch.Tensor], scales: torch.Tensor) -> None:
        self.first, self.second, self.scales = first, second, scales

    @classmethod
    def of(cls, groups: Groups, use: Use, device: torch.device) -> Stack:
        """Copy factors side by side; the parts are moved to the device."""
        for part in (part for group in groups for part, _ in group):
            part.to(device)
        sides = [[part.sides(use) for part, _ in group] for group in groups]
        rank = max(sum(part.rank for part, _ in group) for group in groups)
        narrow = all(side.dtype == torch.int16 for group in sides for pair in group for side in pair)
        options: Any = {"dtype": torch.int16 if narrow else torch.float32, "device": device}
        first = torch.zeros((len(groups), sides[0][0][0].shape[0], rank), **options)
        outputs = sides[0][0][1].shape[1]
        width = max(1, _WIDENED // max(1, len(groups) * rank))
        starts = range(0, outputs, width)
        second = [torch.zeros((len(groups), rank, min(width, outputs - start)), **options) for start in starts]
        scales = torch.zeros((len(groups), 1, rank), device=device)
        for place, (group, pairs) in enumerate(zip(groups, sides, strict=True)):
            start = 0
            for (part, weight), (near, far) in zip(group, pairs, strict=True):
                columns = slice(start, start + part.rank)
                first[place, :, columns] = near
                for block, at in zip(second, starts, strict=True):
                    block[place, columns] = far[:, at : at + width]
                scales[place, 0, columns] = part.scales * weight
                start += part.rank
        return cls(first, second, scales)

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """What the deltas make of inputs.

        Args:
            x: fp32 of shape (choices, tokens, inputs).

        Returns:
            fp32 of shape (choices, tokens, outputs).
        """
        reduced = torch.bmm(x, widened(self.first)) * self.scales
        found = [torch.bmm(reduced, widened(block)) for block in self.second]
        return found[0] if len(found) == 1 else torch.cat(found, 2)


class Dense(Part):
    """A whole matrix.

    Attributes:
        values: fp32 of the weight's shape.
    """

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def apply(self, use: Use, x: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        if use is Use.LOOKUP:
            return torch.nn.functional.embedding(x, self.values)
        return x @ (self.values.T if use is Use.LINEAR else self.values)


class Rows(Part):
    """Some rows of a matrix, of which the others are zero.

    Attributes:
        places: int64 of shape (rows,), ascending.
        values: fp32 of shape (rows + 1, columns); the last row is zero.
        slots: int64 of shape (all rows,): where in `values` each row is.
    """

    def __init__(self, values: torch.Tensor, places: torch.Tensor) -> None:
        self.places = places
        self.values = torch.cat([values[places], values.new_zeros(1, values.shape[1])])
        self.slots = torch.full((values.shape[0],), len(places))
        self.slots[places] = torch.arange(len(places))

    def apply(self, use: Use, x: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        if use is Use.LOOKUP:
            return torch.nn.functional.embedding(self.slots[x], self.values)
        if use is Use.TRANSPOSED:
            return x[:, self.places] @ self.values[:-1]
        return (x @ self.values.T)[:, self.slots]


class Entries(Part):
    """Some entries of a matrix, of which the others are zero.

    Attributes:
        values: sparse fp32 of the shape of the weight, or for `Use.TRANSPOSED` of its transpose.
    """

    def __init__(self, values: torch.Tensor, use: Use) -> None:
        self.values = (values.T if use is Use.TRANSPOSED else values).to_sparse().coalesce()

    def apply(self, use: Use, x: torch.Tensor) -> torch.Tensor:
        """See `Part`."""
        del use
        return torch.sparse.mm(self.values, x.T).T


def part_of(delta: Floats, use: Use) -> Part:
    """The form that takes least work for a delta.

    Args:
        delta: fp32 of the shape of the weight.
        use: how it will be used.
    """
    values = torch.from_numpy(delta)
    places = values.any(dim=1).nonzero()[:, 0]
    if _FEW_ROWS * len(places) <= values.shape[0]:
        return Rows(values, places)
    if use is not Use.LOOKUP and _FEW_ENTRIES * int(values.count_nonzero()) <= values.numel():
        return Entries(values, use)
    return Dense(values)


def with_added(y: torch.Tensor, x: torch.Tensor, use: Use, add: Callable[[torch.Tensor, torch.Tensor], None]) -> Any:
    """An output with something added to it, in its dtype.

    Args:
        y: what the base made of `x`; written to unless autograd may need it.
        x: the input, of any number of dimensions.
        use: how the module uses its matrix.
        add: adds to its first argument, of shape (tokens, outputs), what belongs to its second, of shape
            (tokens, inputs) or for lookups (tokens,).
    """
    out = y.clone() if y.requires_grad or not y.is_contiguous() else y
    flat = x.reshape(-1) if use is Use.LOOKUP else x.reshape(-1, x.shape[-1]).float()
    add(out.view(-1, out.shape[-1]), flat)
    return out


def _nbytes(value: torch.Tensor) -> int:
    if value.is_sparse:
        return value.indices().nbytes + value.values().nbytes
    return value.nbytes
