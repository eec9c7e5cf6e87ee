"""The JSON that the commands of the upkeep print, and what its keys mean; see `skillpack.cli.documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack_store.collecting import Collected, Tally
    from skillpack_store.findings import Finding
    from skillpack_store.fsck import Checked
    from skillpack_store.statistics import StoreSizes


def _tally(name: str, meaning: str) -> dict[str, str]:
    return {f"{name}.number": f"how many {meaning}", f"{name}.bytes": "bytes of them"}


UPKEEP_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "gc": {
        "dry_run": "nothing was changed",
        **_tally("used", "blobs are in use"),
        **_tally("recent", "blobs are kept only because they are recent, or because somebody writes now"),
        **_tally("trashed", "blobs went to the trash"),
        **_tally("deleted", "blobs were deleted from the trash"),
        **_tally("restored", "blobs came back from the trash"),
        **_tally("in_trash", "blobs are in the trash now"),
        **_tally("temporary", "files of interrupted writers were removed"),
        "pruned": "entries of the logs of branches and tags that were removed",
        "writing": "somebody writes now; what was written since they began is kept",
    },
    "fsck": {
        "level": "quick, sizes or full",
        "errors": "how many findings are errors",
        "notes": "how many are not",
        "findings[].problem": "kind of finding; docs/troubleshooting.md says what to do",
        "findings[].error": "it is an error, not a note",
        "findings[].path": "file or folder that it is about, relative to the store",
        "findings[].digest": "blob that it is about; empty if it is about none",
        "findings[].detail": "what is wrong",
        "findings[].affected.skills[]": "name@digest of skills that cannot be used because of it",
        "findings[].affected.attachments[]": "digests of such attachments",
        "findings[].affected.commits[]": "digests of such commits, at most a hundred",
        "findings[].affected.commit_count": "how many there are",
        "findings[].affected.refs[]": "branches and tags in whose history there is such a commit",
        "findings[].quarantined": "where the file was moved to, relative to the store; empty if it was not",
        "refs": "how many branches, tags and lists of attachments there are",
        "commits": "how many commits they lead to",
        "skills": "how many skills these hold",
        "blobs": "how many blobs there are",
        "bytes": "bytes of them",
        "hashed": "bytes that were hashed with --full",
    },
    "stats": {
        "total": "bytes of blobs, trash and quarantine",
        "skills[].name": "name of a skill",
        "skills[].versions": "distinct digests that had the name",
        "skills[].bytes": "bytes of all versions, what they share once",
        "skills[].own": "bytes that no skill of another name uses",
        **_tally("shared", "blobs belong to skills of several names"),
        **_tally("history", "blobs are commits, attachments and the like"),
        **_tally("unreferenced", "blobs are named by nothing"),
        **_tally("blobs", "blobs there are"),
        **_tally("trash", "blobs are in the trash"),
        **_tally("quarantine", "files are in the quarantine"),
        "commits": "how many commits there are",
    },
}
"""Command -> path of a key -> its meaning."""


def gc_document(report: Collected) -> dict[str, Any]:
    """What `gc` prints."""
    names = ("used", "recent", "trashed", "deleted", "restored", "in_trash", "temporary")
    return {
        "dry_run": report.dry_run,
        **{name: _numbers(getattr(report, name)) for name in names},
        "pruned": report.pruned,
        "writing": report.writing,
    }


def fsck_document(report: Checked) -> dict[str, Any]:
    """What `fsck` prints."""
    return {
        "level": report.level,
        "errors": len(report.errors),
        "notes": len(report.notes),
        "findings": [_finding(finding) for finding in report.findings],
        "refs": report.refs,
        "commits": report.commits,
        "skills": report.skills,
        "blobs": report.blobs,
        "bytes": report.bytes,
        "hashed": report.hashed,
    }


def stats_document(sizes: StoreSizes) -> dict[str, Any]:
    """What `stats` prints."""
    names = ("shared", "history", "unreferenced", "blobs", "trash", "quarantine")
    return {
        "total": sizes.total,
        "skills": [asdict(skill) for skill in sizes.skills],
        **{name: _numbers(getattr(sizes, name)) for name in names},
        "commits": sizes.commits,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    affected = {
        key: list(value) if isinstance(value, tuple) else value for key, value in asdict(finding.affected).items()
    }
    return {
        "problem": finding.problem.value,
        "error": finding.problem.is_error,
        "path": finding.path,
        "digest": finding.digest,
        "detail": finding.detail,
        "affected": affected,
        "quarantined": finding.quarantined,
    }


def _numbers(tally: Tally) -> dict[str, int]:
    return {"number": tally.number, "bytes": tally.bytes}
