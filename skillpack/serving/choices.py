"""Which skills a request wants: what a user writes as a model's name, and what it means by digest."""

from __future__ import annotations

from typing import Final, NamedTuple

from skillpack.errors import UsageError
from skillpack.library import parse_weight
from skillpack.summing import check_weight

Choice = tuple[tuple[str, float], ...]
"""Digests of skills with their weights, sorted; empty for the base alone. The identity of an answer's weights."""

NO_SKILLS: Final[Choice] = ()
MOST_SKILLS: Final = 16
"""Skills in one name; each costs its share of every forward pass."""


class Named(NamedTuple):
    """A skill in the name of a model.

    Attributes:
        name: under which it is served.
        weight: factor of its delta.
    """

    name: str
    weight: float


def parse_model(model: str, base: str) -> tuple[Named, ...]:
    """Read the name of a model: the base's, or skills that are joined with ``+``, with the base's name before or not.

    >>> parse_model("smol+math=0.5+code", "smol")
    (Named(name='math', weight=0.5), Named(name='code', weight=1.0))
    >>> parse_model("smol", "smol"), parse_model("math", "smol")
    ((), (Named(name='math', weight=1.0),))

    Args:
        model: as a client writes it.
        base: the base's name.

    Raises:
        UsageError: a weight is none, a skill is named twice, or there are too many.
    """
    if model == base:
        return ()
    parts = model.removeprefix(f"{base}+").split("+")
    if len(parts) > MOST_SKILLS:
        raise UsageError(f"A model may have {MOST_SKILLS} skills at most")
    named = [Named(*parse_weight(part)) for part in parts]
    for skill in named:
        check_weight(skill.name, skill.weight)
    if len({skill.name for skill in named}) < len(named):
        raise UsageError(f"The model {model!a} names a skill twice")
    return tuple(named)
