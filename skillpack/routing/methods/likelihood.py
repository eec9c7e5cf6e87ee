"""Likelihood: the skill that finds the prompt most likely, compared with the base.

What is measured is the gain in log-likelihood for each of the prompt's own tokens, in nats: the mean of
``log p(token | before, skill) - log p(token | before, base)``. Mixtures of domain experts choose by the same
likelihoods (Gururangan et al., "DEMix Layers", 2022, section 5); the base's stands for their prior. It needs no
examples, but as many forward passes as there are skills, and one more. It is for skills that were trained on whole
texts: training on answers alone makes no prompt likelier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from skillpack.errors import UnsupportedModelError
from skillpack.routing.applying import Named
from skillpack.routing.calibration import Background

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.routing.examples import Examples
    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Tokens
    from skillpack.skill import Skill

_TOKENS: Final = 1024
"""In one forward pass, padding included; each has a logit for every word."""


class Likelihood:
    """See the module; a `skillpack.routing.protocol.Method`.

    Args:
        base: that skills are compared with.
    """

    needs_examples: ClassVar[bool] = False

    def __init__(self, base: Base) -> None:
        if not base.model.can_generate():
            raise UnsupportedModelError(
                f"A {type(base.model).__name__} gives no likelihoods of texts", hint="Choose another method: prototype."
            )
        self._base = base
        self._named: dict[str, Named] = {}
        self._background = Background()
        self._plain: torch.Tensor | None = None

    def add(self, skill: Skill, examples: Examples | None) -> float:
        """Load the skill, and see what it makes of texts that are none of its own."""
        del examples
        self._base.applied.load(skill)
        self._named[skill.digest] = Named(skill.name, skill.digest)
        texts = self._base.background
        if self._plain is None:
            self._plain = self._table(texts, [None])[:, 0]
        under = self._table(texts, [self._named[skill.digest]])[:, 0]
        return self._background.add(skill.digest, under - self._plain)

    def remove(self, digest: str) -> None:
        """Forget the skill."""
        self._background.remove(digest)
        self._base.applied.unload(self._named.pop(digest))

    def scores(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        """Gains, in standard deviations of those on the background, (prompts, skills)."""
        return self._background.standardised(self._gains(prompts, digests), digests)

    def _gains(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        found = self._table(prompts, [None, *(self._named[digest] for digest in digests)])
        return found[:, 1:] - found[:, :1]

    def _table(self, prompts: Sequence[Tokens], choices: Sequence[Named | None]) -> torch.Tensor:
        """Likelihoods, (prompts, choices)."""
        rows = [
            (place, choice)
            for place in sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
            for choice in range(len(choices))
        ]
        found = torch.empty(len(prompts), len(choices))
        for group in _groups(rows, prompts):
            texts = [prompts[place] for place, _ in group]
            with self._base.applied.rows([choices[choice] for _, choice in group]):
                likelihoods = self._likelihoods(texts)
            for (place, choice), value in zip(group, likelihoods, strict=True):
                found[place, choice] = value
        return found

    @torch.no_grad()
    def _likelihoods(self, texts: Sequence[Tokens]) -> list[float]:
        """Mean log-likelihood of each text's own tokens, in nats."""
        found = [0.0] * len(texts)
        for places, ids, mask in self._base.batches(texts, rows=len(texts)):
            logits: Any = self._base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            for row, place in enumerate(places):
                start, end = self._base.own(texts[place]), len(texts[place])
                if start:  # a text of one token has nothing before it
                    known = logits[row, start - 1 : end - 1].float()
                    found[place] = -float(torch.nn.functional.cross_entropy(known, ids[row, start:end]))
        return found


def _groups(rows: Sequence[tuple[int, int]], prompts: Sequence[Tokens]) -> Iterator[list[tuple[int, int]]]:
    """Rows that go through the model together; they are sorted by length."""
    group: list[tuple[int, int]] = []
    for row in rows:
        if group and (len(group) + 1) * len(prompts[row[0]]) > _TOKENS:
            yield group
            group = []
        group.append(row)
    if group:
        yield group
