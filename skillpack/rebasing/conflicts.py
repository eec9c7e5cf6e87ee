"""How far a new base has moved where a skill changes it, in relation to what the skill adds.

With D what the skill adds to a tensor and M what the new base has moved it, both as vectors of all their elements:

* moved = |M| / |D|, Frobenius norms;
* cosine of M and D: near 1 the new base has already gone where the skill goes, near -1 it went back;
* opposed: the share of the sum of |D| in elements whose signs in M and D differ. 0.5 is what chance gives where every
  element moved;
* risk: the share of the sum of |D| that M takes back, which is min(|D|, |M|) where signs differ. Between 0 and 1.

None of them says what a model does: sums are taken in weights, and only texts tell what is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.manifest import block_of
from skillpack.skill import first_rows
from skillpack.tensors import DTYPE_BYTES, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skillpack.tensors import Doubles, Floats

PIECE: Final = 1 << 20
"""Elements that are worked on at a time."""


class Sums(NamedTuple):
    """Sums over elements, fp64: D², M², DM, |D|, |D| where signs differ, and what M takes back of D there."""

    delta: float = 0.0
    movement: float = 0.0
    inner: float = 0.0
    magnitude: float = 0.0
    opposed: float = 0.0
    lost: float = 0.0

    def plus(self, other: Sums) -> Sums:
        """Over the elements of both."""
        return Sums(*map(float.__add__, self, other))


@dataclass(frozen=True)
class _Figures:
    """What the sums come to; see the module.

    Attributes:
        moved: None where the skill adds nothing.
        cosine: None where the skill adds nothing or the base has not moved.
        opposed: None where the skill adds nothing.
        risk: likewise.
    """

    moved: float | None
    cosine: float | None
    opposed: float | None
    risk: float | None


@dataclass(frozen=True)
class TensorConflict(_Figures):
    """One tensor that the skill changes.

    Attributes:
        tensor: its name, as an install will write it.
        changed: the new base has another tensor there than the old one.
        recoded: it was coded anew.
        reason: why there are no figures; empty if there are.
    """

    tensor: str
    changed: bool
    recoded: bool
    reason: str = ""


@dataclass(frozen=True)
class LayerConflict(_Figures):
    """The tensors of one block of the model together.

    Attributes:
        layer: the block, such as ``model.layers.12``, or ``rest``.
        tensors: how many of its tensors the skill changes.
        changed: how many of these the new base changed.
    """

    layer: str
    tensors: int
    changed: int


@dataclass(frozen=True)
class Conflicts(_Figures):
    """All tensors together.

    Attributes:
        layers: the worst first.
        tensors: the worst first.
    """

    layers: tuple[LayerConflict, ...]
    tensors: tuple[TensorConflict, ...]


def sums_of(delta: Floats, old: Tensor, new: Tensor) -> Sums:
    """Sums over one tensor.

    Args:
        delta: what the skill adds, fp32.
        old: the old base's tensor, of the same shape or with more rows.
        new: the new base's, likewise.
    """
    total = Sums()
    before, after = first_rows(old, delta.shape), first_rows(new, delta.shape)
    added = delta.reshape(-1)
    for start in range(0, added.size, PIECE):
        span = slice(start, min(added.size, start + PIECE))
        total = total.plus(
            _block(added[span].astype(np.float64), _values(piece(after, span)) - _values(piece(before, span)))
        )
    return total


def piece(tensor: Tensor, span: slice) -> Tensor:
    """Elements of a tensor in C order, as a view; `span` has a start and a stop."""
    width = DTYPE_BYTES[tensor.dtype]
    return Tensor(tensor.dtype, (span.stop - span.start,), tensor.data[span.start * width : span.stop * width])


def summarise(found: Iterable[tuple[TensorConflict, Sums]]) -> Conflicts:
    """Figures of tensors, of layers and of all, the riskiest first."""
    found = list(found)
    layers: dict[str, list[tuple[TensorConflict, Sums]]] = {}
    for tensor, sums in found:
        layers.setdefault(block_of(tensor.tensor), []).append((tensor, sums))
    rows = [
        LayerConflict(
            *_figures(_total(sums for _, sums in members)),
            layer=layer,
            tensors=len(members),
            changed=sum(tensor.changed for tensor, _ in members),
        )
        for layer, members in layers.items()
    ]
    return Conflicts(
        *_figures(_total(sums for _, sums in found)),
        layers=tuple(sorted(rows, key=lambda row: (*_worst(row), row.layer))),
        tensors=tuple(sorted((tensor for tensor, _ in found), key=lambda row: (*_worst(row), row.tensor))),
    )


def tensor_conflict(name: str, sums: Sums, *, changed: bool, recoded: bool, reason: str = "") -> TensorConflict:
    """The figures of one tensor."""
    return TensorConflict(*_figures(sums), tensor=name, changed=changed, recoded=recoded, reason=reason)


def _figures(sums: Sums) -> tuple[float | None, float | None, float | None, float | None]:
    if not sums.delta:
        return None, None, None, None
    norms = math.sqrt(sums.delta) * math.sqrt(sums.movement)
    return (
        math.sqrt(sums.movement / sums.delta),
        sums.inner / norms if norms else None,
        sums.opposed / sums.magnitude,
        sums.lost / sums.magnitude,
    )


def _worst(row: TensorConflict | LayerConflict) -> tuple[float, float]:
    return -(row.risk or 0.0), -(row.moved or 0.0)


def _total(parts: Iterable[Sums]) -> Sums:
    total = Sums()
    for part in parts:
        total = total.plus(part)
    return total


def _block(delta: Doubles, movement: Doubles) -> Sums:
    sizes, moved = np.abs(delta), np.abs(movement)
    against = delta * movement < 0
    return Sums(
        float(delta @ delta),
        float(movement @ movement),
        float(delta @ movement),
        float(sizes.sum()),
        float(sizes[against].sum()),
        float(np.minimum(sizes, moved)[against].sum()),
    )


def _values(tensor: Tensor) -> Doubles:
    return tensor.float32().astype(np.float64)
