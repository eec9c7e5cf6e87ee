"""What is composed, read as a fine-tune of the base would be: the difference is known, and values are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from skillpack.codecs.matrix import matrix_shape
from skillpack.delta import Delta
from skillpack.interop.updates import known_product

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from skillpack.checkpoint import TensorInfo
    from skillpack.composing.composition import Composition
    from skillpack.composing.protocol import Method
    from skillpack.tensors import Factors, Floats, Tensor

_WORTH: Final = 0.75
"""Factors are not worth more columns than this share of the shorter side of their matrix."""


@dataclass(frozen=True, eq=False)
class ComposedTensors:
    """See `skillpack.checkpoint.Checkpoint`.

    Attributes:
        composition: the skills.
        method: how they become one; with everything known that it has to know.
    """

    composition: Composition
    method: Method

    @property
    def origin(self) -> str:
        """What to call it."""
        return "the composed skill"

    @property
    def folder(self) -> Path | None:
        """None."""
        return None

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """None of them can be read."""
        return {}

    @property
    def companions(self) -> Mapping[str, Path]:
        """None: changes of files are kept as changes."""
        return {}

    @property
    def code_files(self) -> tuple[str, ...]:
        """None."""
        return ()

    def read(self, name: str) -> Tensor:
        """Not to be asked for."""
        raise KeyError(name)

    def update(self, name: str) -> Floats | None:
        """What is added to the base's tensor, composed anew at every call."""
        return self.composition.merged(self.method, self.composition.targets[name])

    def factors(self, name: str) -> Factors | None:
        """The same as a product, where all skills have thin ones and the method is a weighted sum."""
        composition, target = self.composition, self.composition.targets[name]
        coefficients = composition.coefficients(self.method, target)
        if coefficients is None or len(target.form[1]) != 2:
            return None
        shape = matrix_shape(target.form[1])
        by_digest = dict(zip((active.skill.digest for active in composition.skills), coefficients, strict=True))
        products = []
        for claim in target.claims:
            active, entry = composition.coded(claim)
            product = None if entry is None else known_product(active.skill, entry, shape)
            if product is None:
                return None
            products.append((product.left * by_digest[claim.digest], product.right))
        if sum(left.shape[1] for left, _ in products) > _WORTH * min(shape):
            return None
        return np.hstack([left for left, _ in products]), np.vstack([right for _, right in products])

    def inherits(self, name: str) -> str | None:  # noqa: ARG002
        """None: everything that is listed changes."""
        return None


@dataclass(frozen=True, eq=False)
class ComposedDelta(Delta):
    """What is composed, as what differs from the base.

    Attributes:
        marks: what stands for the base and for the fine-tune.
    """

    marks: tuple[str, str] = ("", "")

    @property
    def base_fingerprint(self) -> str:
        """Of the base that all skills are for."""
        return self.marks[0]

    @property
    def tuned_fingerprint(self) -> str:
        """There is no fine-tune; the digest of the recipe says where all comes from."""
        return self.marks[1]
