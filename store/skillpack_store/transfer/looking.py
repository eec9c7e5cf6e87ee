"""Looking at a skill of a remote without bringing it: only documents are read, and nothing is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack_store.addresses import parse_address
from skillpack_store.documents import INDEX, Commit, SkillManifest, attached_files
from skillpack_store.errors import NotFoundError, StoreError
from skillpack_store.names import choices
from skillpack_store.referrers import referrers_tag
from skillpack_store.transfer.arriving import of_unknown_size, read_document, read_list, understood
from skillpack_store.transfer.fetching import wanted_branches
from skillpack_store.transfer.reports import require_refs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack_store.addresses import Address
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.remotes.protocol import Remote

__all__ = ["SeenSkill", "look_at", "look_at_attachment"]


@dataclass(frozen=True)
class SeenSkill:
    """A skill of a remote, none of whose layers was read.

    Attributes:
        name: Its name.
        descriptor: Its manifest.
        manifest: What it consists of.
        config: Its own description.
        commit: Where it was found: the head of the branch, or the tagged commit.
        attachments: What is attached to it, as the remote lists it.
    """

    name: str
    descriptor: Descriptor
    manifest: SkillManifest
    config: bytes
    commit: Commit
    attachments: tuple[Descriptor, ...]


def look_at(remote: Remote, address: str, *, branch: str = "main", limit: int) -> SeenSkill:
    """Read what a remote says about a skill: commit, manifest, config and the list of attachments, all hashed.

    Args:
        remote: Where it is.
        address: ``name`` at the head of the branch, or ``name@<tag>``.
        branch: The remote's branch.
        limit: The most bytes that a config may have.

    Raises:
        NotFoundError: There is no such skill, branch, tag or library.
        StoreError: The address needs the history, which is not read.
        CorruptStoreError: What came is not what it should be.
        RemoteError: The remote cannot be reached.
    """
    wanted = parse_address(address)
    refs = require_refs(remote)
    digest = _commit_of(remote, refs, wanted, branch)
    data = read_document(remote, of_unknown_size(digest, INDEX))
    commit = understood(remote, digest, data, Commit.parse)
    if wanted.name not in commit.skills:
        where = f"branch {branch}" if wanted.tag is None else f"tag {wanted.tag}"
        hint = choices(wanted.name, commit.skills, "skill")
        raise NotFoundError(f"There is no skill {wanted.name!r} on {where} of {remote.url}.", hint=hint)
    skill = commit.skills[wanted.name]
    manifest = understood(remote, skill.digest, read_document(remote, skill), SkillManifest.parse)
    listed = refs.get(f"referrers/{referrers_tag(skill.digest)}")
    return SeenSkill(
        wanted.name,
        skill,
        manifest,
        read_document(remote, manifest.config, limit=limit),
        commit,
        () if listed is None else tuple(read_list(remote, listed)),
    )


def look_at_attachment(remote: Remote, subject: str, attachment: Descriptor, *, limit: int) -> bytes:
    """Return the first file of an attachment.

    Args:
        remote: Where it is.
        subject: Digest of what it is attached to.
        attachment: As it is listed.
        limit: The most bytes that the file may have.

    Raises:
        CorruptStoreError: What came is no such attachment.
        RemoteError: The remote cannot be reached.
    """
    data = read_document(remote, attachment)
    _, *files = understood(remote, attachment.digest, data, lambda text: attached_files(text, subject))
    return read_document(remote, files[0], limit=limit) if files else b""


def _commit_of(remote: Remote, refs: Mapping[str, str], wanted: Address, branch: str) -> str:
    if wanted.version is not None or wanted.digest is not None:
        raise StoreError(
            "Numbers and digests are found in the history, which is not read for a look.",
            hint=f"Write {wanted.name} or {wanted.name}@<tag>; or fetch, and look at what came.",
        )
    if wanted.tag is None:
        return wanted_branches(remote, refs, [branch])[branch]
    tags = {ref.removeprefix("tags/"): digest for ref, digest in refs.items() if ref.startswith("tags/")}
    if wanted.tag not in tags:
        raise NotFoundError(f"There is no tag {wanted.tag!r} in {remote.url}.", hint=choices(wanted.tag, tags, "tag"))
    return tags[wanted.tag]
