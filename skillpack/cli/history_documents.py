"""The JSON that commands on the history of a library print, and what its keys mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skillpack.branching import LibraryChange, RefSummary
    from skillpack.differences import LibraryDiff
    from skillpack.history import LogEntry, RefLogEntry
    from skillpack.locked_skills import Lock, SyncReport

_SIDE: Final = {
    "digest": "its identity; this and the others are null if the skill is not there",
    "version": "its number on the branch; null if it was never on it",
    "size": "bytes on disk of all that the digest covers",
}
_CHANGE: Final = {
    "kind": "what was done: merge, fast-forward, restore, revert, undelete, or up to date if nothing had to change",
    "branch": "the branch that was changed; the branch or tag that is back",
    "commit": "digest of the commit that it names now; null after a dry run",
    "changes[].name": "name of a skill",
    "changes[].kind": "added, removed or changed",
    "changes[].before": "digest before; null if it was added",
    "changes[].after": "digest after; null if it was removed",
    "resolved[].name": "name of a skill with a conflict that was resolved as asked",
    "resolved[].conflict": "what the conflict was",
    "dry_run": "nothing was changed",
}
_REF: Final = {
    "name": "its name",
    "digest": "of the commit that it names",
    "time": "of that commit, RFC 3339 in UTC",
    "author": "of that commit",
    "message": "of that commit",
    "skills": "how many skills the library has there",
    "only_here": "for one that is deleted: how many commits no other branch or tag leads to; else null",
}
_LOCKED: Final = {
    "name": "name of the skill",
    "digest": "its identity",
    "version": "its number when it was locked; null if it had none",
    "size": "bytes on disk of all that the digest covers",
    "base": "fingerprint of the base that it was packed from",
    "weight": "factor of its delta",
}


def _within(prefix: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{key}": meaning for key, meaning in keys.items()}


HISTORY_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "log": {
        "commits[].digest": "of the commit",
        "commits[].parents[]": "digests of the commits that it follows, the one it was made on first",
        "commits[].time": "when, RFC 3339 in UTC",
        "commits[].author": "who",
        "commits[].message": "why",
        "commits[].refs[]": "branches and tags that name it",
        "commits[].added[]": "names of skills that its first parent does not have",
        "commits[].removed[]": "names of skills that only its first parent has",
        "commits[].changed[]": "names of skills that are different there",
        "commits[].version": "of SKILL, as the branch counts; null without SKILL, if it was removed, or has no number",
        "commits[].size": "bytes on disk of that version; null without SKILL, or if it was removed",
    },
    "reflog": {
        "entries[].ref": "full name of the branch or tag",
        "entries[].revision": "how other commands name the commit, main@{1}",
        "entries[].digest": "of the commit that it named from then on; null if it was deleted",
        "entries[].time": "when, RFC 3339 in UTC",
        "entries[].message": "of the commit",
    },
    "diff": {
        "older": "digest of the one commit",
        "newer": "digest of the other",
        "skills[].name": "name of a skill that is different",
        "skills[].kind": "added, removed or changed",
        **_within("skills[].before", _SIDE),
        **_within("skills[].after", _SIDE),
        "skills[].moved": "norm of the difference of the deltas, relative to the older; null without --tensors",
        "skills[].overlap": "cosine of the two deltas; null without --tensors",
        "skills[].tensors[].tensor": "name, as an install writes it",
        "skills[].tensors[].bytes_before": "coded bytes in the older version; null if it does not change the tensor",
        "skills[].tensors[].bytes_after": "the same of the newer version",
        "skills[].tensors[].codecs_before[]": "names of the codecs in the older version",
        "skills[].tensors[].codecs_after[]": "the same of the newer version",
        "skills[].tensors[].moved": "as above, of this tensor; null if there is no older delta",
        "skills[].tensors[].overlap": "as above, of this tensor; null if one of the deltas is zero",
        "skills[].tensors[].reason": "why the two cannot be compared; empty if they can",
    },
    "branch": _within("branches[]", _REF),
    "tag": _within("tags[]", _REF),
    "merge": _CHANGE,
    "restore": _CHANGE,
    "revert": _CHANGE,
    "undelete": _CHANGE,
    "lock": {
        "file": "the file that was written",
        "remotes[]": "addresses of stores that have the skills",
        **_within("skills[]", _LOCKED),
    },
    "sync": {
        "folder": "the model folder",
        "in_sync": "nothing had to be done",
        "install[]": "names of skills that are put on",
        "replace[]": "names of skills that get another content",
        "reweigh[]": "names of skills that get another weight only",
        "remove[]": "names of skills that are taken off",
        "keep[]": "names of skills that stay as they are",
        **_within("skills[]", _LOCKED),
        "differences[].path": "with --check: a file that is not as the last install left it",
        "differences[].problem": "changed, missing or damaged skill",
        "written[]": "relative paths of the files that were written",
        "restored[]": "relative paths of the base's files that are back in place",
        "bytes": "bytes of the written files",
        "check": "only compared",
        "dry_run": "nothing was changed",
    },
}
"""Command -> path of a key -> its meaning, as in `skillpack.cli.documents.KEYS`."""


def log_document(entries: Iterable[LogEntry]) -> dict[str, Any]:
    """What `log` prints."""
    return {"commits": [asdict(entry) for entry in entries]}


def reflog_document(entries: Iterable[RefLogEntry]) -> dict[str, Any]:
    """What `reflog` prints."""
    return {"entries": [asdict(entry) for entry in entries]}


def diff_document(found: LibraryDiff) -> dict[str, Any]:
    """What `diff` prints."""
    document = asdict(found)
    for skill in document["skills"]:
        for side in ("before", "after"):
            skill[side] = skill[side] or dict.fromkeys(_SIDE)
    return document


def refs_document(kind: str, refs: Iterable[RefSummary]) -> dict[str, Any]:
    """What `branch` and `tag` print."""
    plural = {"branch": "branches", "tag": "tags"}[kind]
    return {plural: [{key: getattr(ref, key) for key in _REF} for ref in refs]}


def change_document(change: LibraryChange) -> dict[str, Any]:
    """What `merge`, `restore`, `revert` and `undelete` print."""
    resolved = [{"name": name, "conflict": text} for name, text in change.resolved.items()]
    return {**asdict(change), "resolved": resolved}


def lock_document(locked: Lock, file: str) -> dict[str, Any]:
    """What `lock` prints."""
    return {"file": file, "remotes": list(locked.remotes), "skills": [asdict(skill) for skill in locked.skills]}


def sync_document(found: SyncReport, *, check: bool, dry_run: bool) -> dict[str, Any]:
    """What `sync` prints."""
    report = found.report
    return {
        "folder": str(found.folder),
        "in_sync": found.in_sync,
        **{key: list(names) for key, names in found.steps._asdict().items()},
        "skills": [asdict(skill) for skill in found.skills],
        "differences": [difference._asdict() for difference in found.differences],
        "written": [] if report is None else list(report.written),
        "restored": [] if report is None else list(report.restored),
        "bytes": 0 if report is None else report.nbytes,
        "check": check,
        "dry_run": dry_run,
    }
