"""Options of `compose` for the methods that learn from texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from skillpack.composing.names import LEARNED
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Function = TypeVar("Function", bound="Callable[..., Any]")

_UNLABELLED: Final = ("adamerging", "concrete")


def learned_options(function: Function) -> Function:
    """Add --data, --steps, --batch and --max-tokens."""
    options = (
        click.option(
            "--data",
            multiple=True,
            metavar="DATA",
            help=f"Texts to learn from, for {', '.join(LEARNED)}; once for each task.",
        ),
        click.option(
            "--steps",
            type=click.IntRange(0),
            default=100,
            metavar="NUMBER",
            help="Steps of learning.",
            show_default=True,
        ),
        click.option(
            "--batch",
            type=click.IntRange(1),
            default=8,
            metavar="NUMBER",
            help="Texts of each task that a step of learning draws.",
            show_default=True,
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(2),
            default=256,
            metavar="NUMBER",
            help="Cut texts to learn from here.",
            show_default=True,
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def learns(
    method: str, data: Sequence[str], base: str | None, *, weights: str | None = None, task: str | None = None
) -> bool:
    """Whether a method learns from texts.

    Raises:
        UsageError: it does and misses texts or the base, or weights or a task are given; or it does not and texts are
            given.
    """
    if method not in LEARNED:
        if data:
            raise UsageError(
                f"The method {method} needs no texts",
                hint=f"Leave out --data; {listing(LEARNED, 10)} learn from texts.",
            )
        return False
    if not data:
        kind = "prompts or texts" if method in _UNLABELLED else "texts with answers or labels"
        raise UsageError(f"The method {method} learns from {kind}", hint="Give them: --data prompts.jsonl")
    if base is None:
        raise UsageError(f"The method {method} learns on the live model", hint="Give the skills' base: --base org/base")
    for option, value in (("--weights", weights), ("--task", task)):
        if value is not None:
            raise UsageError(f"The method {method} has no use for {option}", hint="Leave it out.")
    return True
