"""Every error of the store: what happened, what to do next, and the exit code that a command line gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AuthenticationError",
    "BusyError",
    "CorruptStoreError",
    "DivergedError",
    "MergeConflictError",
    "NoStoreError",
    "NotFoundError",
    "RefusedError",
    "RemoteError",
    "ReportedError",
    "StoreError",
]


class ReportedError(Exception):
    """An error to show to a user as it is: what happened, and what to do next.

    Attributes:
        message: What happened, one or a few sentences.
        hint: The next step, or an empty string.
        exit_code: The exit status of a command that ends with this error.

    >>> error = ReportedError("The disk is full.", hint="Free 3 MB and run it again.")
    >>> str(error), error.hint, error.exit_code
    ('The disk is full.', 'Free 3 MB and run it again.', 1)
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StoreError(ReportedError):
    """The store refused, or could not do, what was asked."""


class NoStoreError(StoreError):
    """There is no store where one was expected."""

    exit_code = 10


class BusyError(StoreError):
    """Somebody else moved the ref first, again and again."""

    exit_code = 11


class CorruptStoreError(StoreError):
    """Bytes are not what their digest or their format says they are."""

    exit_code = 13


class MergeConflictError(StoreError):
    """Two changes of the same skills do not go together; nothing was written.

    Attributes:
        conflicts: Name of each skill -> what happened to it.
    """

    def __init__(self, message: str, *, conflicts: Mapping[str, str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.conflicts = dict(conflicts)


class NotFoundError(StoreError):
    """No blob, ref, version or name like this."""


class DivergedError(StoreError):
    """A branch or tag would be moved to a commit that does not follow the one it names."""


class RemoteError(StoreError):
    """A remote cannot be reached, refuses, or does not answer as it should."""


class RefusedError(RemoteError):
    """A remote understood and refuses, so that there is no use in trying again."""


class AuthenticationError(RefusedError):
    """A remote wants to know who asks, or does not let them."""
