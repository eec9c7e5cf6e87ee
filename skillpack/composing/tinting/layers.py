"""A skill of one tensor, from values that were learned for it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from skillpack.composing.composition import Composition
from skillpack.composing.learned.masking import mask_digest
from skillpack.composing.making import Made, made
from skillpack.composing.names import TINTING
from skillpack.composing.recipe import Recipe, RecipePart
from skillpack.installing.claims import Active, find_targets
from skillpack.skill import open_skill

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.composing.known_base import KnownBase
    from skillpack.composing.protocol import Deltas, Weights
    from skillpack.packing.opening import Hands
    from skillpack.progress import Progress
    from skillpack.tensors import Floats
    from skillpack_store import Repository


@dataclass(frozen=True)
class OwnLayer:
    """See `skillpack.composing.protocol.Method`: not what the skills add, but what was learned in its place.

    Attributes:
        layer: name of the tensor in the base.
        values: SHA-256 of what is added, hex, so that other values are another recipe.
        added: fp32 of the tensor's shape.
    """

    name: ClassVar[str] = TINTING
    ordered: ClassVar[bool] = False

    layer: str
    values: str
    added: Floats = field(repr=False, compare=False, metadata={"recipe": False})

    def merge(self, name: str, deltas: Deltas, weights: Weights) -> Floats:  # noqa: ARG002
        """What was learned."""
        return self.added.copy()


class MadeLayer(NamedTuple):
    """A skill of one tensor before it is put into a store.

    Attributes:
        recipe: how it was made.
        made: manifest and streams.
    """

    recipe: Recipe
    made: Made


@dataclass(frozen=True, eq=False)
class LayerMaker:
    """Makes skills of one tensor, as faithful to what was learned as the experts' skills are to their fine-tunes.

    Attributes:
        skills: the experts.
        base: of all of them.
        layer: name of the tensor in the base.
        names: all names that it has there; tied tensors have several.
        facts: what all layers were learned from, for their recipes.
        hands: who does the work.
    """

    skills: Sequence[Active]
    base: KnownBase
    layer: str
    names: frozenset[str]
    facts: Mapping[str, Any]
    hands: Hands

    @contextmanager
    def made(self, task: str, added: Floats, progress: Progress) -> Iterator[MadeLayer]:
        """The skill for a task; its streams are there until the block ends.

        Args:
            task: name of the expert.
            added: to the base's tensor, fp32 of its shape.
            progress: called during the work.
        """
        method = OwnLayer(self.layer, mask_digest({self.layer: added}), added)
        parts = tuple(RecipePart(active.skill.name, active.skill.digest, 1.0) for active in self.skills)
        options = {"layer": method.layer, "values": method.values}
        recipe = Recipe(method.name, options, parts, task=task, learned=self.facts)
        targets = {
            name: target
            for name, target in find_targets(self.skills, self.base).items()
            if target.reference in self.names
        }
        composition = Composition(tuple(self.skills), recipe, self.base, targets, tensors_only=True)
        with made(composition, method, self.hands, progress) as found:
            yield MadeLayer(recipe, found)

    def stored(self, repository: Repository, digest: str, name: str, recipe: Recipe) -> Floats:
        """What such a skill adds to the base's tensor, read from the store; fp32 of its shape."""
        skills = (Active(open_skill(repository, digest, name)),)
        targets = find_targets(skills, self.base)
        target = next(target for target in targets.values() if target.reference in self.names)
        return Composition(skills, recipe, self.base, targets).delta(target, target.claims[0])
