r"""Layer swapping: the middle of the model from one skill, its ends from another.

Bandarkar et al., Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large Language Models, arXiv:2410.01335: the
first `bottom` and the last `top` layers are those of the second skill (there: of a language), those between are of the
first (there: a task). `transition` layers on the inner side of each seam are the mean of both, and so is what belongs
to no layer. An end of no layers has no seam.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from skillpack.composing.elementwise import layer_of, mapped, weighted_sum
from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.composing.protocol import Deltas, Source, Weights
    from skillpack.tensors import Floats


@dataclass(frozen=True)
class LayerSwapping:
    """Layer swapping; the first skill is the one of the middle.

    Attributes:
        bottom: how many of the first layers are the second skill's.
        top: how many of the last.
        transition: how many layers are averaged at each seam.
        layers: how many there are; by default as many as the base has or, where that is not given, the skills change.
    """

    name: ClassVar[str] = "layer-swapping"
    ordered: ClassVar[bool] = True
    bottom: int = 5
    top: int = 5
    transition: int = 1
    layers: int | None = None

    def __post_init__(self) -> None:
        if min(self.bottom, self.top, self.transition, self.layers or 0) < 0:
            raise UsageError("layer-swapping: numbers of layers cannot be negative")

    def with_layers(self, layers: int) -> LayerSwapping:
        """See `Layered`."""
        return replace(self, layers=layers) if self.layers is None else self

    def coefficients(self, name: str, sources: Sequence[Source], weights: Weights, layers: int) -> Weights:
        """See `Linear`.

        Raises:
            UsageError: there are not two skills, or the model has too few layers.
        """
        if len(sources) != 2:
            raise UsageError(
                f"layer-swapping takes two skills, not {len(sources)}", hint="The first is the one of the middle."
            )
        layers = layers if self.layers is None else self.layers
        seams = bool(self.bottom) + bool(self.top)
        if self.bottom + self.top + seams * self.transition > layers:
            raise UsageError(
                f"There are {layers} layers, and layer-swapping takes {self.bottom} at the bottom, {self.top} at the "
                f"top and {self.transition} for each transition",
                hint="Give smaller numbers: --option bottom=2 --option top=2. Without --base only layers that skills "
                "change are known.",
            )
        middle, ends = self._shares(layer_of(name), layers)
        return [middle * weights[0], ends * weights[1]]

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:
        """See `Method`."""
        factors = self.coefficients(name, deltas.sources, weights, deltas.layers)
        return mapped(deltas, lambda pieces: weighted_sum(pieces, factors))

    def _shares(self, layer: int | None, layers: int) -> tuple[float, float]:
        """Of the first skill and of the second."""
        if layer is None:
            return 0.5, 0.5
        below = [layer - self.bottom] if self.bottom else []
        above = [layers - self.top - 1 - layer] if self.top else []
        depth = min(below + above, default=self.transition)
        if depth < 0:
            return 0.0, 1.0
        return (0.5, 0.5) if depth < self.transition else (1.0, 0.0)
