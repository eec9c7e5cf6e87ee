"""Before a ref names something: all of it is there, and no garbage collection that runs now will take it away.

Whoever calls this is inside ``Repository.writing``; see ``skillpack_store.writers`` for why that is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack_store.documents import attached_files, parse_index
from skillpack_store.errors import CorruptStoreError

if TYPE_CHECKING:
    from skillpack_store.descriptors import Descriptor
    from skillpack_store.repository import Repository

__all__ = ["secure_attachments", "secure_commit", "secure_skill"]


def secure_skill(repository: Repository, skill: Descriptor) -> None:
    """Refuse a skill of which something is not in the store; start the grace period of all the rest anew.

    Raises:
        NotFoundError: The manifest, the config or a layer is missing.
        CorruptStoreError: One of them is there with another size, or the manifest cannot be read.
    """
    manifest = repository.skill_manifest(skill.digest)
    for blob in (skill, manifest.config, *manifest.layers):
        size = repository.blobs.refresh(blob.digest)
        if size != blob.size:
            raise CorruptStoreError(
                f"Blob {blob.digest} of skill {skill.digest} has {size} bytes on disk "
                f"({repository.blobs.path(blob.digest)}), {blob.size} were expected.",
                hint="Store the skill again.",
            )


def secure_commit(repository: Repository, digest: str) -> None:
    """Refuse a commit of which something is not in the store; start the grace period anew where that is needed.

    A commit in the history of a branch or tag is complete and stays so. Another one is walked through with all that
    came before it.

    Raises:
        NotFoundError: Something is missing.
        CorruptStoreError: Something is there with another size, or a document cannot be read.
    """
    repository.read_commit(digest)
    repository.blobs.refresh(digest)
    tips = {*repository.branches().values(), *repository.tags().values()}
    live = tips if digest in tips else set(repository.graph.ancestors(*tips))
    if digest in live:
        return
    waiting, done, skills = [digest], {digest}, set[str]()
    while waiting:
        commit = repository.read_commit(waiting.pop())
        repository.blobs.refresh(commit.digest)
        for skill in commit.skills.values():
            if skill.digest not in skills:
                secure_skill(repository, skill)
                skills.add(skill.digest)
        waiting += [parent for parent in commit.parents if parent not in done and parent not in live]
        done.update(commit.parents)


def secure_attachments(repository: Repository, subject: str, digest: str) -> None:
    """Refuse a list of attachments of which something is not in the store; start the grace period of all anew.

    Args:
        repository: The store.
        subject: Digest of what they are attached to.
        digest: The list.

    Raises:
        NotFoundError: The list, an attachment or a file is missing.
        CorruptStoreError: A document cannot be read, or is about another subject.
    """
    repository.blobs.refresh(digest)
    for entry in repository.read_document(digest, parse_index):
        repository.blobs.refresh(entry.digest)
        for file in repository.read_document(entry.digest, lambda data: attached_files(data, subject)):
            repository.blobs.refresh(file.digest)
