"""Every error that SkillPack reports: what happened, what to do next, and the exit code of the command.

Exit codes are published: 0 ok, 1 failed, 2 usage, 3 partly done, 10 no store, 11 busy, 12 wrong base, 13 corrupt,
14 not trusted, 130 interrupted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from skillpack_store.errors import (
    BusyError,
    CorruptStoreError,
    DivergedError,
    NoStoreError,
    NotFoundError,
    RefusedError,
    RemoteError,
    ReportedError,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BusyError",
    "BusyFolderError",
    "CheckpointError",
    "ConflictError",
    "CorruptStoreError",
    "DamagedCheckpointError",
    "DamagedSkillError",
    "DataError",
    "DivergedError",
    "LockFileError",
    "ModifiedFolderError",
    "ModifiedModelError",
    "NoSpaceError",
    "NoStoreError",
    "NotAppliedWarning",
    "NotFiniteError",
    "NotFoundError",
    "NotTrustedError",
    "ReadOnlyError",
    "RefusedError",
    "RemoteError",
    "ReportedError",
    "SkillPackError",
    "StoreError",
    "TrustWarning",
    "UnsupportedCheckpointError",
    "UnsupportedModelError",
    "UsageError",
    "WrongBaseError",
    "listing",
]


def listing(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message; beyond `limit` only their number is given.

    >>> listing(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class SkillPackError(ReportedError):
    """A task on models or skills could not be done."""


class UsageError(SkillPackError):
    """The request itself makes no sense, whatever the state of files and stores."""

    exit_code: ClassVar[int] = 2


class CheckpointError(SkillPackError):
    """A checkpoint cannot be used: not found, ambiguous, or it does not fit the other checkpoint."""


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint is truncated, has a bad header, or is missing although an index names it."""

    exit_code: ClassVar[int] = 13


class UnsupportedCheckpointError(CheckpointError):
    """A sound checkpoint of a kind that is refused: pickles, quantised weights, adapters other than LoRA."""


class WrongBaseError(SkillPackError):
    """A skill was asked to go on a base other than the one it was packed from.

    Attributes:
        tensors: names of the base tensors that are missing or differ.
    """

    exit_code: ClassVar[int] = 12

    def __init__(self, message: str, *, tensors: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.tensors = tuple(tensors)


class DamagedSkillError(SkillPackError):
    """The bytes of a skill are not what its manifest or digest announces."""

    exit_code: ClassVar[int] = 13


class NotTrustedError(SkillPackError):
    """A skill is not signed by anybody who is trusted for it, or a signature of it does not hold.

    Attributes:
        problems: what is wrong with each signature that was looked at.
    """

    exit_code: ClassVar[int] = 14

    def __init__(self, message: str, *, problems: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class TrustWarning(UserWarning):
    """The policy asks only to warn, and a skill is taken although nobody who is trusted for it has signed it."""


class DataError(SkillPackError):
    """Texts or chats cannot be used: not found, malformed, or with nothing that a model could be measured on."""


class BusyFolderError(SkillPackError):
    """Another command is working on the same model folder."""

    exit_code: ClassVar[int] = 11


class LockFileError(SkillPackError):
    """A file of locked skills cannot be used: not found, malformed, or of a newer version."""


class ModifiedFolderError(SkillPackError):
    """Files of a managed model were changed by somebody else since the receipt was written.

    Attributes:
        paths: the files, relative to the model folder.
    """

    def __init__(self, message: str, *, paths: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.paths = tuple(paths)


class UnsupportedModelError(SkillPackError):
    """A live model of a kind that cannot take skills, or not this one: quantised, split over processes, wrapped."""


class ModifiedModelError(SkillPackError):
    """Weights of a live model were changed by somebody else since skills were grafted.

    Attributes:
        tensors: their names in the base checkpoint.
    """

    def __init__(self, message: str, *, tensors: Iterable[str] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.tensors = tuple(tensors)


class NotAppliedWarning(UserWarning):
    """A grafted skill also changes files, such as the tokenizer's, that a live model cannot take."""


class ConflictError(SkillPackError):
    """Two skills claim the same place with different content, or a part cannot be scaled as asked.

    Attributes:
        place: the file, and the place in it, that both claim; empty if it is about something else.
    """

    def __init__(self, message: str, *, place: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.place = place


class NotFiniteError(SkillPackError):
    """A tensor holds NaN or infinity where finite numbers are needed."""


class NoSpaceError(SkillPackError):
    """The disk is full, or too small for what is about to be written."""


class ReadOnlyError(SkillPackError):
    """A folder or file may not be written."""
