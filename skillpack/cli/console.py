"""What commands print: data on stdout, talk on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from skillpack.errors import SkillPackError, TrustWarning, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from skillpack.cli.bar import Bar

_UNITS = ("kB", "MB", "GB", "TB", "PB")
_NO_WRAPPING = 100_000
"""Width of a table, in characters, where it is not for a terminal."""


@dataclass(frozen=True)
class Output:
    """How one run of a command talks.

    Attributes:
        as_json: data is one JSON object, and there is no talk about the result.
        quiet: no talk and no progress.
    """

    as_json: bool
    quiet: bool

    def progress(self) -> Bar:
        """A progress bar, to be used as a context."""
        from skillpack.cli.bar import Bar

        return Bar(shown=not self.quiet)

    def say(self, *lines: str) -> None:
        """Talk to the user."""
        if not self.quiet and not self.as_json:
            for line in lines:
                click.echo(printable(line), err=True)

    @contextlib.contextmanager
    def trust_warnings(self) -> Iterator[None]:
        """Say on stderr what is not trusted, in the place of Python's own warning."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", TrustWarning)
            others = warnings.showwarning

            def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
                if not issubclass(category, TrustWarning):
                    others(message, category, *rest, **more)
                elif not self.quiet:
                    click.echo(f"warning: {printable(str(message))}", err=True)

            warnings.showwarning = show
            yield

    def result(self, document: Mapping[str, Any], *lines: str) -> None:
        """End a command that did something: with JSON, or with a few lines of talk."""
        if self.as_json:
            self.document(document)
        else:
            self.say(*lines)

    def document(self, document: Mapping[str, Any]) -> None:
        """Print one JSON object."""
        click.echo(json.dumps(document, indent=2))

    def lines(self, *lines: str) -> None:
        """Print data that is not a table."""
        for line in lines:
            click.echo(printable(line))

    def table(self, columns: Mapping[str, Literal["left", "right"]], rows: Iterable[Iterable[str]]) -> None:
        """Print a table; it is cut to fit only where a person looks at it.

        Args:
            columns: heading -> how it is justified.
            rows: texts, one for each column.
        """
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading, justify in columns.items():
            table.add_column(heading, justify=justify, no_wrap=justify == "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else _NO_WRAPPING
        drawn = io.StringIO()
        Console(file=drawn, width=width, force_terminal=terminal, highlight=False).print(table)
        for line in drawn.getvalue().splitlines():
            click.echo(line.rstrip())

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before something is destroyed.

        Args:
            question: what to ask.
            yes: the user has said yes already.

        Raises:
            UsageError: nobody is there to answer.
            SkillPackError: the answer is no.
        """
        if yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"There is no terminal to ask on: {question}", hint="Add -y to say yes.")
        if not click.confirm(printable(question), err=True):
            raise SkillPackError("Nothing was done")


def help_of_group(context: click.Context) -> None:
    """Print what a group of commands has, if none of them was named."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def printable(text: str) -> str:
    r"""Text of foreign origin with everything escaped that could do more than be seen.

    >>> printable("math\x1b[2J")
    'math\\x1b[2J'
    """
    if text.isprintable():  # Nearly every one.
        return text
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def human(size: int) -> str:
    """A number of bytes, for people; units are decimal.

    >>> human(999), human(1000), human(5_873_001), human(269_060_552)
    ('999 bytes', '1.00 kB', '5.87 MB', '269 MB')
    """
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    value = float(size)
    for unit in _UNITS:
        value /= 1000
        if value < 999.5 or unit == _UNITS[-1]:
            break
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "file"), counted(2, "file")
    ('1 file', '2 files')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def moment(time: str) -> str:
    """An RFC 3339 time to the minute.

    >>> moment("2026-01-02T03:04:05Z")
    '2026-01-02 03:04'
    """
    return time[:16].replace("T", " ")
