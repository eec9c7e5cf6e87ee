"""Prototype: the skill whose examples' mean direction is closest to the prompt's.

Features of the frozen base are whitened (`skillpack.routing.space`); the measure is the cosine between a prompt and the
mean of a skill's examples. It needs some examples, no training, and two matrix products beyond the base's pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from skillpack.routing.space import Scale, check_examples, left_out_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.routing.examples import Examples
    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Tokens
    from skillpack.skill import Skill


class Prototype:
    """See the module; a `skillpack.routing.protocol.Method`.

    Args:
        base: whose features are compared.
    """

    needs_examples: ClassVar[bool] = True

    def __init__(self, base: Base) -> None:
        self._base = base
        self._known: dict[str, tuple[torch.Tensor, Scale]] = {}

    def add(self, skill: Skill, examples: Examples | None) -> float:
        """Take the mean of the skill's examples."""
        own = self._base.whitened(check_examples(skill, examples).prompts)
        prototype, others = own.mean(0), left_out_means(own)
        left_out = torch.nn.functional.cosine_similarity(own, others, dim=1)
        scale = Scale.of(skill, left_out, cosines(self._base.background_directions, prototype))
        self._known[skill.digest] = prototype, scale
        return scale.threshold

    def remove(self, digest: str) -> None:
        """Forget a skill."""
        del self._known[digest]

    def scores(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        """Cosines on the skills' scales, (prompts, skills)."""
        return self.of_features(self._base.features(prompts), digests)

    def of_features(self, features: torch.Tensor, digests: Sequence[str]) -> torch.Tensor:
        """The same for features, fp32 of shape (prompts, width)."""
        directions = self._base.whitened(features)
        known = [self._known[digest] for digest in digests]
        columns = [scale.scores(cosines(directions, prototype)) for prototype, scale in known]
        return torch.stack(columns, 1) if columns else torch.empty(len(features), 0)


def cosines(directions: torch.Tensor, prototype: torch.Tensor) -> torch.Tensor:
    """Cosines between unit vectors (n, width) and another vector (width,)."""
    return directions @ torch.nn.functional.normalize(prototype, dim=0)
