"""What a skill adds to the output of a module: its delta of the module's weight, applied without forming the weight.

The arithmetic is fp32 throughout: inputs and factors are widened, and the sum is cast once to the dtype of the output.
"""

from __future__ import annotations

import threading
import warnings
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from skillpack.codecs.protocol import DeltaFactors
    from skillpack.tensors import Floats

_FEW_ROWS: Final = 4
"""Rows are kept alone if at most one in so many is not zero."""
_FEW_ENTRIES: Final = 20
"""The same for entries: a sparse product takes about as much longer for each."""
WIDENED: Final = 1 << 19
"""Entries of a factor that are widened at a time, so that they are multiplied before they leave a processor's cache."""

_SMALL: Final = 1 << 14
"""Entries below which fresh memory costs nothing worth mentioning."""
_FEW_IN_COLUMN: Final = 50
"""Columns of factors are multiplied as sparse ones if at most one entry in so many is not zero."""
_BYTE: Final = 127
"""The largest integer that is kept as a byte."""
_FEW_MORE: Final = 8
"""Bytes are worth one more column in so many."""
_MANY_ZEROS: Final = 1 << 18
"""Entries below which a sparse product beside the other is not worth its call."""


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

    Factors stay narrow. For few tokens they take as long as reading them takes, and what is widened is multiplied at
    once. Integers are bytes: of a few columns that have larger ones, each becomes some that add up to it.

    Of a vocabulary most rows have a part in few of the products only. What is mostly zeros comes last there, and
    linear modules multiply it as a sparse matrix.

    Attributes:
        near: of shape (columns, rank); int8, int16 or fp32.
        far: of shape (rank, rows), in this order since products of few tokens take a third of the time so.
        scales: fp32 of shape (rank,); what each column of `near` is multiplied by.
        full: how many rows of `far` are not mostly zeros.
        sparse: the others once more, as sparse fp32 of shape (rows, rank - full); None if there are too few.
    """

    anchor = "near"

    def __init__(self, factors: DeltaFactors) -> None:
        factors = _in_bytes(factors)
        order, self.full = _order(factors)
        self.near = torch.from_numpy(np.ascontiguousarray(factors.columns[:, order]))
        self.far = torch.from_numpy(np.ascontiguousarray(factors.rows.T[order]))
        self.scales = torch.from_numpy(factors.scales[order])
        self.sparse = None if self.full == self.rank else _compressed(self.far[self.full :].T)

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
        outputs = self.shape[0] if use is Use.LINEAR else self.shape[1]
        y = x.new_zeros((x.shape[0], outputs), dtype=torch.float32)
        self.add_to(y, use, x, 1.0)
        return y

    def add_to(self, y: torch.Tensor, use: Use, x: torch.Tensor, weight: float) -> None:
        """See `Part`."""
        first, second = self.sides(use)
        reduced = self._reduced(use, first, x)
        if use is Use.LINEAR and self.sparse is not None and _can_be_sparse(y, reduced):
            add_sparse_product(y, reduced[:, self.full :], self.sparse, weight)
            reduced, second = reduced[:, : self.full], second[: self.full]
        add_product(y, reduced, second, weight)

    def add_to_matrix(self, matrix: torch.Tensor, weight: float) -> None:
        """Add the product itself, times a weight, to an fp32 matrix, in place."""
        self.to(matrix.device)
        add_product(matrix, self.far.T.float() * self.scales, self.near.T, weight)

    def _reduced(self, use: Use, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.embedding(x, first).float() if use is Use.LOOKUP else x @ widened(first)
        return found * self.scales


def _in_bytes(factors: DeltaFactors) -> DeltaFactors:
    """The same product of 8-bit integers and at most an eighth more columns; where that cannot be, as it is."""
    rows, columns, scales = factors
    if rows.dtype != np.int16 or columns.dtype != np.int16:
        return factors
    if (_pieces(rows) * _pieces(columns)).sum() > len(scales) + len(scales) // _FEW_MORE:
        return factors
    rows, columns, scales = _split(rows, columns, scales)
    columns, rows, scales = _split(columns, rows, scales)
    return factors._replace(rows=rows.astype(np.int8), columns=columns.astype(np.int8), scales=scales)


def _pieces(side: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """How many columns of bytes add up to each column."""
    largest = np.abs(side.astype(np.int64)).max(axis=0, initial=1)
    return -(-largest // _BYTE)


def _split(
    side: npt.NDArray[np.int16], other: npt.NDArray[np.int16], scales: Floats
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16], Floats]:
    """The same product with columns of one side that fit into bytes."""
    found = []
    while len(scales):
        part = np.clip(side, -_BYTE, _BYTE)
        found.append((part, other, scales))
        rest = side - part
        more = rest.any(axis=0)
        side, other, scales = rest[:, more], other[:, more], scales[more]
    if not found:
        return side, other, scales
    sides, others, weights = zip(*found, strict=True)
    return np.hstack(sides), np.hstack(others), np.concatenate(weights)


def _order(factors: DeltaFactors) -> tuple[npt.NDArray[np.intp], int]:
    """In which order to keep the columns of factors, and how many of them to multiply as they are."""
    rows, rank = factors.rows.shape
    present = np.count_nonzero(factors.rows, axis=0)
    order = np.argsort(-present, kind="stable")
    full = int((present * _FEW_IN_COLUMN > rows).sum())
    if (rank - full) * rows < _MANY_ZEROS or not _has_sparse_products():
        return np.arange(rank), rank
    return order, full


def _compressed(values: torch.Tensor) -> torch.Tensor:
    """The same in fp32, of which only what is not zero is kept, row by row."""
    with warnings.catch_warnings():
        # That this layout may still change in PyTorch says nothing to those who load a skill.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        found = values.float().to_sparse_csr()
        # MKL takes 32 bits, and others would be copied for each product.
        places = found.crow_indices().int(), found.col_indices().int()
        return torch.sparse_csr_tensor(*places, found.values(), found.shape, check_invariants=True)


@cache
def _has_sparse_products() -> bool:
    """Whether this build of PyTorch adds sparse products to a processor's memory; it does with MKL alone."""
    try:
        y = torch.zeros(1, 2)
        add_sparse_product(y, torch.ones(1, 1), _compressed(torch.ones(2, 1)), 1.0)
    except RuntimeError:
        return False
    return bool((y == 1).all())


def with_gradient(x: torch.Tensor) -> bool:
    """Whether autograd follows what is made of an input."""
    return torch.is_grad_enabled() and x.requires_grad


def _can_be_sparse(y: torch.Tensor, x: torch.Tensor) -> bool:
    simple = y.device.type == "cpu" and y.dtype == torch.float32
    return simple and not with_gradient(x) and not torch.compiler.is_compiling()


def add_sparse_product(y: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: float) -> None:
    """Add x @ factor.T to an output, in place.

    Args:
        y: fp32 of shape (tokens, outputs), whose rows are contiguous; may be a view.
        x: fp32 of shape (tokens, rank).
        factor: sparse fp32 of shape (outputs, rank).
        weight: what the product is multiplied by.
    """
    y.T.addmm_(factor, x.T, alpha=weight)


class _Scratch(threading.local):
    """Memory of each thread for what is widened. Fresh memory would take longer than widening: the system clears it."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0)
        self._views: dict[torch.Size, torch.Tensor] = {}

    def of(self, shape: torch.Size) -> torch.Tensor:
        """Memory for fp32 of a shape."""
        if shape not in self._views:
            with torch.inference_mode(False):
                if self._buffer.numel() < shape.numel():
                    self._buffer = torch.empty(max(WIDENED, shape.numel()))
                    self._views.clear()
                self._views[shape] = self._buffer[: shape.numel()].view(shape)
        return self._views[shape]


_SCRATCH: Final = _Scratch()


def widened(factor: torch.Tensor) -> torch.Tensor:
    """A factor in fp32; if need be in memory that the next call of the same thread writes to."""
    easy = factor.dtype == torch.float32 or factor.numel() < _SMALL
    if easy or factor.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return factor.float()
    return _SCRATCH.of(factor.shape).copy_(factor)


def add_product(y: torch.Tensor, x: torch.Tensor, factor: torch.Tensor, weight: float = 1.0) -> None:
    """Add x @ factor to an output, in place.

    Args:
        y: of shape (tokens, outputs); may be a view.
        x: fp32 of shape (tokens, rank).
        factor: of shape (rank, outputs) and any dtype.
        weight: what the product is multiplied by.
    """
    outputs = factor.shape[1]
    width = max(1, min(outputs, WIDENED // max(1, factor.shape[0])))
    for start in range(0, outputs, width):
        out, some = (y, factor) if width == outputs else (whole[:, start : start + width] for whole in (y, factor))
        if out.dtype == torch.float32:
            out.addmm_(x, widened(some), alpha=weight)
        else:
            out.add_(x @ widened(some), alpha=weight)


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
    out = writable(y)
    flat = x.reshape(-1) if use is Use.LOOKUP else x.reshape(-1, x.shape[-1]).float()
    add(out.view(-1, out.shape[-1]), flat)
    return out


def writable(y: torch.Tensor) -> torch.Tensor:
    """An output that may be written to: a copy if autograd may need it as it is."""
    return y.clone() if y.requires_grad or not y.is_contiguous() else y


def _nbytes(value: torch.Tensor) -> int:
    if value.layout == torch.sparse_csr:
        return value.crow_indices().nbytes + value.col_indices().nbytes + value.values().nbytes
    if value.is_sparse:
        return value.indices().nbytes + value.values().nbytes
    return value.nbytes
