"""What a check of a store can find: the kinds of problems, by names that stay the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Affected", "Finding", "Problem"]


class Problem(str, Enum):
    """A kind of finding. The values are published; ``docs/troubleshooting.md`` says what to do about each."""

    LAYOUT_DAMAGED = "layout-damaged"
    FOLDER_DAMAGED = "folder-damaged"
    REF_ENTRY_DAMAGED = "ref-entry-damaged"
    REF_ENTRY_MISSING = "ref-entry-missing"
    INDEX_DAMAGED = "index-damaged"
    BLOB_DAMAGED = "blob-damaged"
    BLOB_MISSING = "blob-missing"
    BLOB_NOT_A_FILE = "blob-not-a-file"
    FILE_UNREADABLE = "file-unreadable"
    SIZE_MISMATCH = "size-mismatch"
    DOCUMENT_MALFORMED = "document-malformed"
    INDEX_STALE = "index-stale"
    BLOB_IN_TRASH = "blob-in-trash"
    REF_EMPTY = "ref-empty"
    STRAY_FILE = "stray-file"
    LEFTOVER_FILE = "leftover-file"

    @property
    def is_error(self) -> bool:
        """Whether something is lost or wrong; otherwise it is a note about what is unusual and harmless."""
        return self not in _NOTES


_NOTES = frozenset(
    {Problem.INDEX_STALE, Problem.BLOB_IN_TRASH, Problem.REF_EMPTY, Problem.STRAY_FILE, Problem.LEFTOVER_FILE}
)


@dataclass(frozen=True)
class Affected:
    """What cannot be used, or not as it should be, because of one problem; the problem's consequences.

    Attributes:
        skills: Name and digest of skills, as in ``math@sha256:…``, sorted.
        attachments: Digests of attachments, sorted.
        commits: Digests of commits that name something damaged, at most a hundred.
        commit_count: How many there are.
        refs: Refs in whose history there is such a commit, as in ``heads/main``, sorted.
    """

    skills: tuple[str, ...] = ()
    attachments: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()
    commit_count: int = 0
    refs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One problem and its consequences.

    Attributes:
        problem: Its kind.
        path: The file or folder that it is about, relative to the store.
        detail: What is wrong with it, a sentence.
        digest: The blob that it is about; empty if it is about none.
        affected: Its consequences.
        quarantined: Where the file is now, relative to the store; empty if it was left where it is.
    """

    problem: Problem
    path: str
    detail: str
    digest: str = ""
    affected: Affected = field(default_factory=Affected)
    quarantined: str = ""
