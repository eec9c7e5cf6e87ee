"""What every method that SkillPack is compared with can do, and a model that runs what it gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from typing_extensions import Self

    from benchmarks.baselines.stream import Writer

Moments = dict[str, torch.Tensor]
"""Tensor name -> second moment of the layer's inputs, E[x x^T], fp32 of shape (inputs, inputs)."""


class Baseline(Protocol):
    """One method with its settings, which are the fields of a dataclass."""

    @property
    def name(self) -> str:
        """What the method is called in a table."""
        ...

    def settings(self) -> dict[str, Any]:
        """What tells it from the method's defaults, as JSON."""
        ...

    def save(self, base: Path, tuned: Path, folder: Path, *, moments: Moments | None = None) -> int:
        """Compress a fine-tune into files of an empty or new folder; returns the bytes of all of them.

        Args:
            base: folder of the base.
            tuned: folder of the fine-tune.
            folder: where to write.
            moments: for the methods that calibrate; a matrix that is not named is rounded to nearest.
        """
        ...

    def load(self, folder: Path, base: Path) -> dict[str, torch.Tensor]:
        """The tensors that differ from the base, approximating tuned, in fp32; from the files and the base alone."""
        ...

    @classmethod
    def sweep(cls) -> list[Self]:
        """The settings worth trying where the divergence from tuned is 2e-4 to 5e-2 nats per token."""
        ...


class Coded(Protocol):
    """One matrix as a method writes it down."""

    def write(self, stream: Writer) -> None:
        """Append everything that is needed to read it again, given its shape and the method's settings."""
        ...

    def matrix(self) -> torch.Tensor:
        """The delta that it stands for, fp32 of shape (rows, columns)."""
        ...


def apply(base: Path, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The language model of the base, computing in fp32, with some of its tensors replaced.

    Args:
        base: folder of the base.
        tensors: name -> new value, as `Baseline.load` gives them. One name of tied weights stands for all of them.

    Raises:
        ValueError: the model has no such tensor, or it has another shape, or tied weights are given two values.
    """
    from recipes.measure import load

    model = load(base)
    replace_tensors(model, tensors)
    return model


def replace_tensors(model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replace some of a model's tensors, in place.

    Args:
        model: any module.
        tensors: as in `apply`.

    Raises:
        ValueError: as in `apply`.
    """
    places: dict[str, torch.Tensor] = {**dict(model.named_buffers()), **_parameters(model)}
    written: dict[int, str] = {}
    for name, value in tensors.items():
        place = places.get(name)
        if place is None or place.shape != value.shape:
            raise ValueError(f"the model has no tensor {name} of shape {tuple(value.shape)}")
        first = written.setdefault(place.data_ptr(), name)
        if first != name and not torch.equal(tensors[first], value):
            raise ValueError(f"{name} and {first} are tied but differ in what is put in")
        with torch.no_grad():
            place.copy_(value)


def _parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))
