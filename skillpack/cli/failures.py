"""The one place where an exception becomes a message, a hint and an exit code."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from skillpack.cli.console import printable
from skillpack.errors import ReportedError

if TYPE_CHECKING:
    from collections.abc import Callable

DEBUG_VARIABLE: Final = "SKILLPACK_DEBUG"
EXIT_CODES: Final = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "partly done",
    10: "no store",
    11: "somebody else is at work on the same store or folder",
    12: "wrong base",
    13: "corrupt data",
    14: "not trusted: no signature that your policy accepts",
    130: "interrupted",
}
_FAILED: Final = 1
_USAGE: Final = 2
_INTERRUPTED: Final = 130

_PERMISSIONS: Final = "Check the permissions, or choose another place."
_SPACE: Final = "Free some space and run the command again."
_HINTS: Final = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "The file system is read-only: choose another place.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path.",
    errno.EISDIR: "Give a file, not a folder.",
}


class Failure(NamedTuple):
    """What a user is told about an exception.

    Attributes:
        message: what happened.
        hint: the next step; may be empty.
        exit_code: of the command, a key of `EXIT_CODES`.
    """

    message: str
    hint: str
    exit_code: int


def guarded(work: Callable[[], object], *, as_json: bool) -> int:
    """Run a command and report on stderr what goes wrong.

    Args:
        work: the command; an integer that it returns is an exit code.
        as_json: report also as a JSON object on stdout.

    Returns:
        The exit code.
    """
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return _FAILED
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, the user gets a message
        code = _report(error, as_json=as_json)
        try:
            sys.stdout.flush()
        except OSError:
            _forget_stdout()
    return code if isinstance(code, int) else 0


def explain(error: BaseException) -> Failure:
    """What to tell the user about an exception.

    >>> from skillpack.errors import WrongBaseError
    >>> explain(WrongBaseError("Tensor x differs.", hint="Use the right base."))
    Failure(message='Tensor x differs.', hint='Use the right base.', exit_code=12)
    """
    if isinstance(error, ReportedError):
        return Failure(error.message, error.hint, error.exit_code)
    if isinstance(error, click.UsageError):
        return Failure(error.format_message(), _usage(error.ctx), _USAGE)
    if isinstance(error, click.ClickException):
        return Failure(error.format_message(), "", error.exit_code)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return Failure("Interrupted", "", _INTERRUPTED)
    if isinstance(error, OSError):
        return Failure(_os_message(error), _HINTS.get(error.errno or 0, ""), _FAILED)
    return _unexpected(error)


def _unexpected(error: BaseException) -> Failure:
    if isinstance(error, MemoryError):
        return Failure("There is not enough memory", "Close other programs, or use a larger machine.", _FAILED)
    return Failure(
        f"SkillPack itself failed: {type(error).__name__}: {error}",
        f"Please report this, with what the same command prints when {DEBUG_VARIABLE}=1 is set.",
        _FAILED,
    )


def _report(error: BaseException, *, as_json: bool) -> int:
    failure = explain(error)
    if _is_bug(error) and os.environ.get(DEBUG_VARIABLE) == "1":
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    click.echo(f"error: {printable(failure.message)}", err=True)
    if failure.hint:
        click.echo(f"hint: {printable(failure.hint)}", err=True)
    if as_json:
        document = {"error": failure.message, "hint": failure.hint, "exit_code": failure.exit_code}
        with contextlib.suppress(OSError):
            click.echo(json.dumps(document, indent=2))
    return failure.exit_code


def _is_bug(error: BaseException) -> bool:
    known = (ReportedError, click.ClickException, click.Abort, KeyboardInterrupt, MemoryError, OSError)
    return not isinstance(error, known)


def _usage(context: click.Context | None) -> str:
    if context is None:
        return ""
    pieces = " ".join(context.command.collect_usage_pieces(context))
    return f"{context.command_path} {pieces}; '{context.command_path} --help' says more."


def _os_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{os.fsdecode(error.filename)}: {reason}" if isinstance(error.filename, (str, bytes)) else reason


def _forget_stdout() -> None:
    """Let the interpreter flush what is left to nowhere (docs.python.org/3/library/signal.html#note-on-sigpipe)."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
