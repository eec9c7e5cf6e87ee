"""What was composed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skillpack.composing.recipe import Recipe
    from skillpack.manifest import Manifest


@dataclass(frozen=True)
class ComposeReport:
    """What was composed.

    Attributes:
        name: of the skill.
        version: its number in the library; None if nothing was stored.
        digest: its identity; empty after a dry run.
        size: bytes on disk of everything that the digest covers.
        recipe: of what and how.
        manifest: what the skill changes.
        summed: tensors that keep the streams of the parts.
        recoded: tensors whose delta was coded anew.
        resumed: tensors that an interrupted run had already worked on.
        expected: the digest that a recipe has led to before; None if it was not composed again.
    """

    name: str
    version: int | None
    digest: str
    size: int
    recipe: Recipe
    manifest: Manifest
    summed: int
    recoded: int
    resumed: int = 0
    expected: str | None = None

    @property
    def same(self) -> bool | None:
        """Whether composing again has led to the same skill; None if it was not composed again."""
        return None if self.expected is None else self.digest == self.expected

    @property
    def error(self) -> float:
        """The largest relative error of a tensor that was coded anew, to the composed delta."""
        return max((entry.error for entry in self.manifest.tensors), default=0.0)
