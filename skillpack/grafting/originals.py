"""Where the base's own values are while skills are on a live model: copies of them, or the checkpoint's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from skillpack.errors import UnsupportedModelError
from skillpack.grafting.live_tensors import live

if TYPE_CHECKING:
    from skillpack.checkpoint import Checkpoint
    from skillpack.grafting.places import Part, Place

    Extent = tuple[int, Part]


class Originals(Protocol):
    """The base's values, for places that skills touch."""

    def keep(self, place: Place, name: str) -> None:
        """Make sure that the values at a place, which are the base's now, can be had later.

        Args:
            place: whose values are about to be overwritten.
            name: of the base's tensor.
        """

    def forget(self, place: Place) -> None:
        """Undo `keep`."""

    def has(self, place: Place) -> bool:
        """Whether they can be had from here already."""

    def values(self, place: Place) -> torch.Tensor:
        """The base's values, on the CPU, in the dtype that the live tensor has. KeyError if they were not kept."""


class HostCopies:
    """Copies in the CPU's memory, of what is touched and when it is touched for the first time.

    Args:
        pinned: in memory that a GPU can read directly; twice as fast to copy from, and never swapped out.

    Raises:
        UnsupportedModelError: there is no accelerator to pin memory for.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        if pinned and not torch.accelerator.is_available():
            raise UnsupportedModelError(
                "There is no accelerator that pinned memory would be for", hint='Use base="copy".'
            )
        self._pinned = pinned
        self._kept: dict[Extent, torch.Tensor] = {}

    def keep(self, place: Place, name: str) -> None:  # noqa: ARG002
        """Copy the values that are there now."""
        if place.extent not in self._kept:
            copy = torch.empty(place.shape, dtype=place.tensor.dtype, pin_memory=self._pinned)
            self._kept[place.extent] = copy.copy_(place.values)

    def forget(self, place: Place) -> None:
        """Drop the copy."""
        self._kept.pop(place.extent, None)

    def has(self, place: Place) -> bool:
        """Whether there is a copy."""
        return place.extent in self._kept

    def values(self, place: Place) -> torch.Tensor:
        """The copy."""
        return self._kept[place.extent]


class Mapped:
    """The checkpoint's own files, mapped into memory: nothing is copied, and pages go back to the system.

    Args:
        checkpoint: the base.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._names: dict[Extent, str] = {}

    def keep(self, place: Place, name: str) -> None:
        """Remember which tensor of the files it is."""
        self._names.setdefault(place.extent, name)

    def forget(self, place: Place) -> None:
        """Do not rely on the file for this one."""
        self._names.pop(place.extent, None)

    def has(self, place: Place) -> bool:
        """Whether it is known which tensor it is."""
        return place.extent in self._names

    def values(self, place: Place) -> torch.Tensor:
        """The file's tensor, cast as it is when a model is loaded in another dtype."""
        return live(self._checkpoint.read(self._names[place.extent])).to(place.tensor.dtype)
