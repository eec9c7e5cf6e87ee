"""Linear: a small classifier on the features of the frozen base, one head for each skill.

GraftLLM (2025) routes with a classifier on frozen features over all skills, which every new skill trains again. Here
each skill has a logistic regression of its own, its examples against the background, so that a new skill leaves the
others' heads as they are. Both sides weigh the same, however many examples there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import torch

from skillpack.routing.space import Scale, check_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.routing.examples import Examples
    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Tokens
    from skillpack.skill import Skill

_RIDGE: Final = 1e-3
"""Half of it times the squared norm of a head is added to its mean loss, in nats."""
_FOLDS: Final = 5
_STEPS: Final = 30
_ENOUGH: Final = 1e-10


class Linear:
    """See the module; a `skillpack.routing.protocol.Method`.

    Args:
        base: whose features are classified.
    """

    needs_examples: ClassVar[bool] = True

    def __init__(self, base: Base) -> None:
        self._base = base
        self._known: dict[str, tuple[torch.Tensor, Scale]] = {}

    def add(self, skill: Skill, examples: Examples | None) -> float:
        """Train the skill's head, and once for each fold without it, which is what its examples are scored by."""
        own = self._base.whitened(check_examples(skill, examples).prompts)
        folds = torch.arange(len(own)) % min(_FOLDS, len(own))
        scored = torch.empty(len(own))
        for fold in range(min(_FOLDS, len(own))):
            head = train_head(own[folds != fold], self._base.background_directions)
            scored[folds == fold] = logits(own[folds == fold], head)
        head = train_head(own, self._base.background_directions)
        scale = Scale.of(skill, scored, logits(self._base.background_directions, head))
        self._known[skill.digest] = head, scale
        return scale.threshold

    def remove(self, digest: str) -> None:
        """Forget a skill."""
        del self._known[digest]

    def scores(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        """Logits on the skills' scales, (prompts, skills)."""
        directions = self._base.whitened(self._base.features(prompts))
        known = [self._known[digest] for digest in digests]
        columns = [scale.scores(logits(directions, head)) for head, scale in known]
        return torch.stack(columns, 1) if columns else torch.empty(len(prompts), 0)


def logits(features: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Logits of rows of shape (n, width); a head has a weight for each feature, and its bias last."""
    return features @ head[:-1] + head[-1]


def train_head(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Ridge logistic regression of two sets of rows, by Newton's method in the span of the rows.

    Args:
        positive: fp32 of shape (n, width).
        negative: fp32 of shape (m, width).

    Returns:
        fp32 of shape (width + 1,), the bias last.
    """
    rows = torch.cat([positive, negative]).double()
    target = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).double()
    weight = torch.where(target > 0, 0.5 / len(positive), 0.5 / len(negative))
    # A head is rows.T @ dual, so that its size is that of the texts and not that of the model; the bias is free.
    gram = rows @ rows.T
    size = len(rows)
    dual, bias = torch.zeros(size, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(_STEPS):
        chance = torch.sigmoid(gram @ dual + bias)
        curvature = weight * (chance * (1 - chance)).clamp_min(1e-9)
        residual = weight * (chance - target) + _RIDGE * dual
        # Newton's step for dual and bias: gram @ (…) = 0 holds where what gram multiplies is zero.
        system = torch.zeros(size + 1, size + 1, dtype=torch.float64)
        system[:size, :size] = curvature[:, None] * gram + _RIDGE * torch.eye(size, dtype=torch.float64)
        system[:size, size], system[size, :size] = curvature, curvature @ gram
        system[size, size] = curvature.sum()
        step = torch.linalg.solve(system, torch.cat([residual, (weight * (chance - target)).sum()[None]]))
        dual, bias = dual - step[:-1], bias - step[-1]
        if float(step.abs().max()) < _ENOUGH:
            break
    return torch.cat([rows.T @ dual, bias[None]]).float()
