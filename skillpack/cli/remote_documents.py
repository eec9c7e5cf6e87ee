"""The JSON that commands about remotes print, and what its keys mean; see `skillpack.cli.documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skillpack.remotes import RemoteSummary, TransferReport

_REMOTE: Final = {
    "name": "what the remote is called",
    "url": "its address",
    "insecure": "plain HTTP is allowed",
    "branches[].branch": "a branch of the remote",
    "branches[].digest": "the commit that it named when it was looked at last",
}
_TRANSFER: Final = {
    "url": "address of the remote",
    "changes[].ref": "a ref that moved on the receiving side: heads/…, tags/… or remotes/…",
    "changes[].old": "the commit that it named before; null if it was not there",
    "changes[].new": "the commit that it names now",
    "changes[].forced": "the new commit does not follow the old one",
    "kept[].ref": "a tag that was left alone because it names another commit here",
    "kept[].old": "the commit that it names here",
    "kept[].new": "the commit that it names in the remote",
    "kept[].forced": "always true",
    "skills[]": "names of the skills, if only some were asked for",
    "blobs": "files transferred",
    "bytes": "their bytes",
    "attachments": "attachments that the receiving side had not listed",
    "dry_run": "nothing was changed",
}

REMOTE_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "remote add": _REMOTE,
    "remote list": {f"remotes[].{key}": meaning for key, meaning in _REMOTE.items()},
    "remote remove": _REMOTE,
    "remote set-url": _REMOTE,
    "push": _TRANSFER,
    "pull": _TRANSFER,
    "fetch": _TRANSFER,
    "clone": _TRANSFER,
    "ls-remote": {"refs[].ref": "heads/…, tags/… or referrers/…", "refs[].digest": "what it names"},
}


def remote_document(remote: RemoteSummary) -> dict[str, Any]:
    """What `remote add`, `remote remove` and `remote set-url` print."""
    branches = [{"branch": branch, "digest": digest} for branch, digest in remote.branches.items()]
    return {"name": remote.name, "url": remote.url, "insecure": remote.insecure, "branches": branches}


def remotes_document(remotes: Iterable[RemoteSummary]) -> dict[str, Any]:
    """What `remote list` prints."""
    return {"remotes": [remote_document(remote) for remote in remotes]}


def transfer_document(report: TransferReport) -> dict[str, Any]:
    """What `push`, `pull`, `fetch` and `clone` print."""
    return {
        "url": report.url,
        "changes": [asdict(change) for change in report.changes],
        "kept": [asdict(change) for change in report.kept],
        "skills": list(report.skills),
        "blobs": report.blobs,
        "bytes": report.nbytes,
        "attachments": report.attachments,
        "dry_run": report.dry_run,
    }


def refs_document(refs: Mapping[str, str]) -> dict[str, Any]:
    """What `ls-remote` prints."""
    return {"refs": [{"ref": ref, "digest": digest} for ref, digest in refs.items()]}
