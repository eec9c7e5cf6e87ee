"""What a method of composition is: a rule that makes one delta of several, tensor by tensor.

A method is a frozen dataclass whose fields are its options. Options go into the recipe of what is composed, so that the
same recipe gives the same skill. A method sees one tensor at a time. One that has to know something of all tensors
first (a quantile over the whole model, say) is a `Surveying` one: it is asked for a survey, which looks at every tensor
once and then gives the method that goes on from there, perhaps to the next survey.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Protocol, overload, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing_extensions import Self

    from skillpack.tensors import Floats

PIECE: Final = 1 << 17
"""Elements of a tensor that are worked on at a time, so that a method's memory does not grow with the tensor."""

Weights = Sequence[float]
"""Factors of the parts' deltas, in the order of the parts."""


class Source(NamedTuple):
    """One of the skills that are composed.

    Attributes:
        name: how the skill is called, for messages and for methods that are told a skill's name.
        digest: of its content; random numbers start from it, so that they do not depend on the order of skills.
        touches: whether it changes the tensor at hand; its delta is zero otherwise.
    """

    name: str
    digest: str
    touches: bool = True


@dataclass(frozen=True, eq=False)
class Deltas(Sequence["Floats"]):
    """What all the skills add to one tensor: fp32 arrays of one shape, some of them perhaps files that are mapped.

    Attributes:
        sources: the skills, in the order of the arrays.
        arrays: their deltas.
        layers: how many numbered layers the base has, or the skills together where only they are known, for methods
            that go by depth.
    """

    sources: tuple[Source, ...]
    arrays: tuple[Floats, ...]
    layers: int = 0

    @overload
    def __getitem__(self, index: int) -> Floats: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Floats]: ...
    def __getitem__(self, index: int | slice) -> Floats | Sequence[Floats]:
        return self.arrays[index]

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every array."""
        return self.arrays[0].shape

    @property
    def size(self) -> int:
        """Elements of one array."""
        return int(self.arrays[0].size)

    def pieces(self) -> Iterator[tuple[slice, list[Floats]]]:
        """Spans of elements in C order and, for each, a part of every array, one-dimensional."""
        flat = [array.reshape(-1) for array in self.arrays]
        for start in range(0, self.size, PIECE):
            span = slice(start, min(self.size, start + PIECE))
            yield span, [np.asarray(array[span]) for array in flat]


class Method(Protocol):
    """A rule that needs no data. Implementations are frozen dataclasses; their fields are options.

    Attributes:
        name: how users and recipes call it.
        ordered: the order of the skills makes a difference.
    """

    name: ClassVar[str]
    ordered: ClassVar[bool]

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """One delta of several.

        Args:
            name: of the base's tensor.
            deltas: what the skills add to it, zeros where one does not touch it.
            weights: their factors.

        Returns:
            fp32 of the deltas' shape.
        """


class Survey(Protocol):
    """Looks at all tensors once. What it has found so far is arrays, so that it can be kept and taken up again."""

    def observe(self, name: str, deltas: Deltas, weights: Weights) -> None:
        """Look at one tensor; the order of tensors makes no difference."""

    def found(self) -> Mapping[str, npt.NDArray[Any]]:
        """All that it knows."""

    def restore(self, found: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from what `found` gave."""

    def settled(self) -> Method:
        """The method that knows what was found; a `Surveying` one if it has to look again."""


@runtime_checkable
class Surveying(Protocol):
    """A method, or what becomes of one, that has to look at all tensors before it can merge any."""

    def survey(self, sources: Sequence[Source]) -> Survey | None:
        """A new survey of these skills; None if nothing more has to be known."""


@runtime_checkable
class Linear(Protocol):
    """A method that is a weighted sum: what it composes can be coded as the parts are, without any loss."""

    def coefficients(self, name: str, sources: Sequence[Source], weights: Weights, layers: int) -> Weights:
        """Factors of the deltas of one tensor.

        Args:
            name: of the base's tensor.
            sources: the skills.
            weights: as users gave them.
            layers: see `Deltas`.
        """


@runtime_checkable
class Layered(Protocol):
    """A method that depends on how many layers the base has, which then belongs to the recipe."""

    def with_layers(self, layers: int) -> Self:
        """The same method for so many layers, unless it knows their number."""


@runtime_checkable
class Tasked(Protocol):
    """A method that gives one of its parts back from what all share, if it is told which."""

    def for_task(self, task: int) -> Self:
        """The same method for one of the parts, given by its index."""


def parts_of(array: Floats) -> Iterator[Floats]:
    """One array in C order, in one-dimensional pieces."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield np.asarray(flat[start : start + PIECE])


def options_of(method: Method) -> dict[str, Any]:
    """The options of a method as they go into a recipe: JSON values, all of them, defaults included."""
    return {
        field.name: getattr(method, field.name)
        for field in fields(method)  # type: ignore[arg-type]
        if field.init and field.metadata.get("recipe", True)
    }
