"""Options that several commands share, and how a size is read."""

from __future__ import annotations

import functools
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from skillpack.cli.console import Output

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")

_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([a-z]*)")
_FACTORS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}


def parse_size(text: str) -> int:
    """Read a size in bytes; kB, MB and GB are decimal, KiB, MiB and GiB binary, fractions of a byte are dropped.

    >>> parse_size("5MB"), parse_size("2.5 MiB"), parse_size("800")
    (5000000, 2621440, 800)

    Raises:
        BadParameter: it is none.
    """
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or found[2] not in _FACTORS:
        raise click.BadParameter(f"{text!r} is no size; write 5MB, 2.5MiB, 500kB or a number of bytes")
    return int(Decimal(found[1]) * _FACTORS[found[2]])


def output_options(function: Function) -> Function:
    """Add --json and -q, and hand the command an `Output`."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="Print errors and data only.")
    @functools.wraps(function)
    def command(*args: Any, as_json: bool, quiet: bool, **options: Any) -> Any:
        return function(*args, output=Output(as_json, quiet), **options)

    return command  # type: ignore[return-value]


def store_option(function: Function) -> Function:
    """Add --store alone."""
    return click.option(
        "--store", type=click.Path(file_okay=False), metavar="FOLDER", help="Store to use instead of your own."
    )(function)


def store_options(function: Function) -> Function:
    """Add --store and --branch."""
    branch = click.option("--branch", default="main", metavar="NAME", help="Branch of the library.", show_default=True)
    return store_option(branch(function))


def history_options(function: Function) -> Function:
    """Add what a new entry in the history says."""
    message = click.option("-m", "--message", default="", metavar="TEXT", help="Why, for the history.")
    author = click.option("--author", metavar="NAME", help="Who, for the history; by default your login name.")
    return message(author(function))


def dry_run_option(function: Function) -> Function:
    """Add --dry-run."""
    return click.option("--dry-run", is_flag=True, help="Do and check all the work, but change nothing.")(function)


def yes_option(function: Function) -> Function:
    """Add -y."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)
