"""What a task of a chat model is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")


@dataclass(frozen=True)
class Exchange:
    """One user prompt and the answer that the fine-tune should give."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Task:
    """Three sets of exchanges that share no prompt; each comes out the same on every call and machine.

    The sets are functions because some of them download a wheel.

    Attributes:
        name: as it stands in recipes.
        train: ``(count, seed)`` -> that many exchanges in the order of training.
        calibration: exchanges of the same kind that are neither trained nor measured, in random order.
        held_out: what models are measured with, in random order.
    """

    name: str
    train: Callable[[int, int], list[Exchange]]
    calibration: Callable[[], tuple[Exchange, ...]]
    held_out: Callable[[], tuple[Exchange, ...]]


def epochs(pool: Sequence[Exchange], count: int, seed: int) -> list[Exchange]:
    """``count`` exchanges: the pool in another random order in every epoch.

    >>> pool = [Exchange(prompt, "") for prompt in "abc"]
    >>> drawn = epochs(pool, 7, seed=0)
    >>> [sorted({exchange.prompt for exchange in drawn[at : at + 3]}) for at in (0, 3)]
    [['a', 'b', 'c'], ['a', 'b', 'c']]
    """
    draw, drawn = random.Random(f"train {seed}"), list[Exchange]()  # noqa: S311
    while len(drawn) < count:
        drawn += draw.sample(pool, len(pool))
    return drawn[:count]


def shuffled(items: Iterable[T]) -> list[T]:
    """The items in a random order that is always the same."""
    pool = list(items)
    return random.Random("order").sample(pool, len(pool))  # noqa: S311
