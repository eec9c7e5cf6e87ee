"""What a router is: it says for each prompt which skills serve it, or that the base should.

`open_router` in `skillpack.routing.opening` makes one. A package can offer a method of its own as an entry point of the
group ``skillpack.routers``: its name is that of the method, and what it names is called with a `Base` and must return a
`Method`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch

    from skillpack.routing.examples import Examples
    from skillpack.skill import Skill
    from skillpack.texts import Sample

Tokens = list[int]
"""A prompt as the model reads it."""
Threshold = float | Literal["auto"]
"""Least score of a skill that is chosen; "auto" is what the method finds for each skill."""


class Scored(NamedTuple):
    """A skill and how well it fits a prompt.

    Attributes:
        name: of the skill.
        digest: of its content; its identity.
        score: in units of the method, the larger the better; comparable between skills and prompts.
    """

    name: str
    digest: str
    score: float


@dataclass(frozen=True)
class Route:
    """Where a prompt goes.

    Attributes:
        choices: the skills that serve it, best first; empty if no skill fits, so that the base answers.
        scores: of all skills, best first.
    """

    choices: tuple[Scored, ...]
    scores: tuple[Scored, ...] = ()

    @property
    def addresses(self) -> list[str]:
        """The choices as `Host.rows` takes them; several have equal shares of their deltas."""
        share = f"={1 / len(self.choices)!r}" if len(self.choices) > 1 else ""
        return [f"{choice.name}@{choice.digest}{share}" for choice in self.choices]


class Routes(list[Route]):
    """Where prompts go, one after the other.

    Attributes:
        left_out: skills of the library that were no choice, by name, with the reason.
    """

    def __init__(self, found: Iterable[Route], left_out: Mapping[str, str]) -> None:
        super().__init__(found)
        self.left_out = dict(left_out)


class Router(Protocol):
    """Decides which skills serve a prompt. Adding one, or taking one away, changes nothing about the others."""

    @property
    def skills(self) -> tuple[str, ...]:
        """Names of the skills that it knows, sorted."""

    def add(self, skill: Skill | str) -> None:
        """Make a skill a choice; another version of one that is known takes its place.

        Args:
            skill: opened, or its address in the library.

        Raises:
            NotFoundError: there is no such skill.
            DataError: the method needs examples and the skill has none that fit this base.
        """

    def remove(self, name: str) -> None:
        """Forget a skill.

        Raises:
            NotFoundError: it is not known.
        """

    def route(self, prompts: Sequence[str | Sample | Tokens]) -> list[Route]:
        """Where each prompt goes.

        Args:
            prompts: what a user asks, as text, which is put into the model's chat template if it has one; samples of
                `skillpack.texts`; or tokens that hold all that the model reads.
        """


class Method(Protocol):
    """Scores prompts for one skill after another; see `skillpack.routing.methods`.

    Attributes:
        needs_examples: it looks at what is attached to skills. Otherwise that is not read, and cannot be in the way.
    """

    needs_examples: ClassVar[bool]

    def add(self, skill: Skill, examples: Examples | None) -> float:
        """Get to know a skill.

        Args:
            skill: opened.
            examples: what is attached to it for this base; None if there is nothing, or the method needs none.

        Returns:
            The score from which on the skill is chosen, if the user names no other.

        Raises:
            DataError: examples are needed, and there are none or too few.
        """

    def remove(self, digest: str) -> None:
        """Forget a skill that was added."""

    def scores(self, prompts: Sequence[Tokens], digests: Sequence[str]) -> torch.Tensor:
        """How well skills fit prompts.

        Args:
            prompts: none is empty.
            digests: of skills that were added.

        Returns:
            fp32 of shape (prompts, skills). What a skill gets does not depend on the others.
        """
