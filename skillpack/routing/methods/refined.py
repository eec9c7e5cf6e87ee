"""Self-refined: ask the skill that was chosen whether it would choose itself.

Sun et al., "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning" (AAAI 2025): an adapter is
guessed from the model's features, the input is read again with this adapter on, and what the prototypes then say is the
next guess, until a guess repeats itself. Here the first guess is that of `prototype`, which also says what is unknown;
such prompts are not read again. The prototypes that later guesses are compared with are of the examples under the skill
that they belong to, as in the paper, so adding a skill computes nothing about the others. It costs another pass for
each guess, with the guessed skills on, row by row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import torch

from skillpack.errors import DataError
from skillpack.routing.applying import Named
from skillpack.routing.methods.prototype import Prototype, cosines
from skillpack.routing.space import FEWEST, Scale, check_examples, left_out_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.routing.examples import Examples
    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Tokens
    from skillpack.skill import Skill

MOST_GUESSES: Final = 4
"""After the first; a prompt between two skills can go to and fro for ever."""


class SelfRefined:
    """See the module; a `skillpack.routing.protocol.Method`. What a skill is scored does depend on who is guessed.

    Args:
        base: whose features are compared, and on which skills are tried.
    """

    needs_examples: ClassVar[bool] = True

    def __init__(self, base: Base) -> None:
        self._base = base
        self._first = Prototype(base)
        self._named: dict[str, Named] = {}
        self._known: dict[str, tuple[torch.Tensor, Scale]] = {}

    def add(self, skill: Skill, examples: Examples | None) -> float:
        """Load the skill, and take the mean of its examples under itself."""
        known = check_examples(skill, examples)
        if known.refined is None or len(known.refined) < FEWEST:
            raise DataError(
                f"The examples of {skill.name} say nothing about what the skill itself makes of them",
                hint="Attach them without --no-refined, or choose the method prototype.",
            )
        threshold = self._first.add(skill, examples)
        self._base.applied.load(skill)
        own = self._base.whitened(known.refined)
        prototype = own.mean(0)
        left_out = torch.nn.functional.cosine_similarity(own, left_out_means(own), dim=1)
        scale = Scale.of(skill, left_out, cosines(self._base.background_directions, prototype))
        self._named[skill.digest] = Named(skill.name, skill.digest)
        self._known[skill.digest] = prototype, scale._replace(threshold=threshold)
        return threshold

    def remove(self, digest: str) -> None:
        """Forget a skill."""
        self._first.remove(digest)
        del self._known[digest]
        self._base.applied.unload(self._named.pop(digest))

    def scores(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        """Cosines on the skills' scales under the skill that was guessed last, (prompts, skills)."""
        found = self._first.scores(prompts, digests)
        if not digests:
            return found
        least = torch.tensor([self._known[digest][1].threshold for digest in digests])
        open_places = (found >= least).any(1).nonzero()[:, 0].tolist()
        guesses = found.argmax(1).tolist()
        for _ in range(MOST_GUESSES):
            if not open_places:
                break
            named = [self._named[digests[guesses[place]]] for place in open_places]
            features = self._base.features_under([prompts[place] for place in open_places], named)
            found[open_places] = self._under(features, digests)
            new = dict(zip(open_places, found[open_places].argmax(1).tolist(), strict=True))
            open_places = [place for place, guess in new.items() if guess != guesses[place]]
            guesses = [new.get(place, guess) for place, guess in enumerate(guesses)]
        return found

    def _under(self, features: torch.Tensor, digests: Sequence[str]) -> torch.Tensor:
        directions = self._base.whitened(features)
        known = [self._known[digest] for digest in digests]
        return torch.stack([scale.scores(cosines(directions, prototype)) for prototype, scale in known], 1)
