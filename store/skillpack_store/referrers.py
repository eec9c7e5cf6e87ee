"""Attachments: files about a skill that can change without changing the skill.

They are OCI referrers. The list of a skill's attachments is an image index, named by the ref
``referrers/sha256-<hex>`` and shown in ``index.json`` under that name, which is the tag that the OCI distribution
specification gives such a list ("referrers tag schema").
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from skillpack_store.descriptors import Descriptor, parse_digest, parse_media_type
from skillpack_store.documents import EMPTY, INDEX, MANIFEST, Attachment, build_index, parse_index
from skillpack_store.errors import NotFoundError
from skillpack_store.refs import retry_busy
from skillpack_store.view import refresh_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack_store.repository import Repository

__all__ = [
    "TITLE",
    "attach_files",
    "enlist",
    "list_referrers",
    "merge_referrers",
    "referrers_index",
    "referrers_tag",
    "tagged_subject",
]

TITLE = "org.opencontainers.image.title"


def attach_files(
    repository: Repository,
    subject: Descriptor,
    artifact_type: str,
    files: Sequence[tuple[bytes, str, str]],
    annotations: Mapping[str, str],
) -> Descriptor:
    """See ``Repository.attach``."""
    with repository.writing():
        return _attach_files(repository, subject, artifact_type, files, annotations)


def _attach_files(
    repository: Repository,
    subject: Descriptor,
    artifact_type: str,
    files: Sequence[tuple[bytes, str, str]],
    annotations: Mapping[str, str],
) -> Descriptor:
    if not repository.blobs.has(subject.digest):
        raise NotFoundError(f"Nothing can be attached to {subject.digest}: it is not in the store.")
    parse_media_type(artifact_type)
    stored = []
    for content, media_type, title in files:
        blob = repository.blobs.put([content])
        stored.append(Descriptor(blob.digest, blob.size, parse_media_type(media_type), annotations={TITLE: title}))
    repository.blobs.put([b"{}"], expect=EMPTY.digest)
    data = Attachment(artifact_type, subject, stored, annotations).build()
    manifest = repository.blobs.put([data])
    attachment = Descriptor(manifest.digest, manifest.size, MANIFEST, artifact_type, dict(annotations))
    enlist(repository, subject.digest, attachment)
    return attachment


def enlist(repository: Repository, subject: str, attachment: Descriptor) -> None:
    """Add a stored attachment to the list of its subject, unless it is in it."""
    merge_referrers(repository, {subject: [attachment]})


def merge_referrers(repository: Repository, lists: Mapping[str, Sequence[Descriptor]]) -> None:
    """Add stored attachments to the lists of their subjects; those that are in them are passed over.

    Args:
        repository: The store.
        lists: Digest of the subject -> attachments.
    """
    for subject, attachments in lists.items():
        retry_busy(partial(_merge, repository, subject, attachments))
    if lists:
        refresh_index(repository)


def _merge(repository: Repository, subject: str, attachments: Sequence[Descriptor]) -> None:
    ref = f"referrers/{referrers_tag(subject)}"
    value = repository.refs.read(ref)
    listed = [] if value is None else list_referrers(repository, subject)
    merged = {entry.digest: entry for entry in listed}
    for attachment in attachments:
        merged.setdefault(attachment.digest, attachment)
    if len(merged) == len(listed):
        return
    index = build_index([entry.to_json() for entry in merged.values()])
    digest = repository.blobs.put([index]).digest
    repository.refs.update(ref, digest, expected=None if value is None else value.digest)


def list_referrers(repository: Repository, subject: str) -> list[Descriptor]:
    """See ``Repository.referrers``."""
    index = referrers_index(repository, subject)
    return [] if index is None else repository.read_document(index.digest, parse_index)


def referrers_index(repository: Repository, subject: str) -> Descriptor | None:
    """Return the list of a subject's attachments as a blob; None if it never had any."""
    value = repository.refs.read(f"referrers/{referrers_tag(subject)}")
    if value is None or value.digest is None:
        return None
    return Descriptor(value.digest, repository.blobs.size(value.digest), INDEX)


def referrers_tag(subject: str) -> str:
    """Return the tag of the list of a subject's attachments, ``sha256-<hex>``."""
    return parse_digest(subject).replace(":", "-")


def tagged_subject(tag: str) -> str:
    """Return the subject that a list's tag is of: the inverse of ``referrers_tag``, unchecked.

    >>> tagged_subject("sha256-0a")
    'sha256:0a'
    """
    return tag.replace("-", ":", 1)
