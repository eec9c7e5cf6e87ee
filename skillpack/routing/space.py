"""The space in which features are compared: whitened by the background, with scores on a scale of a skill's own.

Features of a language model share a few strong directions that say nothing about the task. They are divided by the
background's covariance, shrunk towards a multiple of the identity since there are more directions than texts. That is
the metric of Mahalanobis detectors (Lee et al., "A simple unified framework for detecting out-of-distribution samples",
2018) with what all skills share, so that no skill changes another's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from skillpack.errors import DataError

if TYPE_CHECKING:
    from skillpack.routing.examples import Examples
    from skillpack.skill import Skill

SHRINKAGE: Final = 0.3
"""Weight of the identity in the covariance."""
HALF_WAY: Final = 0.5
_LEAST: Final = 0.25
"""Threshold of a skill whose examples have so little in common that one in twenty is no nearer than other texts."""
OWN_MISSED: Final = 0.05
"""Quantile of a skill's own examples that its threshold may at most be, each of them scored without itself."""
_LEAST_SPAN: Final = 1e-3
FEWEST: Final = 4
"""Examples without which a skill's own prompts say nothing about what others of it look like."""


class Whitening:
    """Takes features to a space in which the background has no direction that counts more than others.

    Args:
        background: features, fp32 of shape (texts, width).
    """

    def __init__(self, background: torch.Tensor) -> None:
        self._mean = background.mean(0)
        centred = background - self._mean
        texts, width = centred.shape
        ridge = SHRINKAGE * float(centred.square().sum()) / (texts * width)
        # The covariance is ridge * identity plus what is in the span of the texts, so its inverse root is as well.
        _, values, self._span = torch.linalg.svd(centred, full_matrices=False)
        self._rest = ridge**-0.5
        self._extra = ((1 - SHRINKAGE) * values.square() / texts + ridge) ** -0.5 - self._rest

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Directions of features in that space, as unit vectors, fp32 of the same shape."""
        centred = features - self._mean
        whitened = centred * self._rest + ((centred @ self._span.T) * self._extra) @ self._span
        return torch.nn.functional.normalize(whitened, dim=-1)


class Scale(NamedTuple):
    """Makes scores of a measure: 0 is the mean of the background, 1 that of the skill's own examples.

    Attributes:
        low: the measure's mean on the background.
        span: how much higher it is on the skill's own.
        threshold: the score that counts as the skill's: half-way up, or lower where more than one in twenty of its own
            would be missed.
    """

    low: float
    span: float
    threshold: float

    @classmethod
    def of(cls, skill: Skill, own: torch.Tensor, background: torch.Tensor) -> Scale:
        """The scale of a skill.

        Args:
            skill: for messages.
            own: measure of its own examples, each by what the others tell.
            background: measure of the background.

        Raises:
            DataError: its own examples are no different from any text.
        """
        low, span = float(background.mean()), float(own.mean() - background.mean())
        if not span > _LEAST_SPAN:
            raise DataError(
                f"The examples of {skill.name} have nothing in common that other texts do not have",
                hint="Give prompts as users of this skill send them.",
            )
        missed = (float(own.quantile(OWN_MISSED)) - low) / span
        return cls(low, span, min(HALF_WAY, max(_LEAST, missed)))

    def scores(self, found: torch.Tensor) -> torch.Tensor:
        """What was measured, on this scale."""
        return (found - self.low) / self.span


def check_examples(skill: Skill, examples: Examples | None) -> Examples:
    """The examples that a method needs.

    Raises:
        DataError: there are none, or too few.
    """
    if examples is None or len(examples) < FEWEST:
        count = 0 if examples is None else len(examples)
        raise DataError(
            f"The skill {skill.name} has {count or 'no'} examples of what it is for",
            hint=f"Attach some: skillpack add-examples {skill.name} FILE --base MODEL; or choose the method arrow.",
        )
    return examples


def left_out_means(own: torch.Tensor) -> torch.Tensor:
    """For each row the mean of the others."""
    return (own.sum(0) - own) / (len(own) - 1)
