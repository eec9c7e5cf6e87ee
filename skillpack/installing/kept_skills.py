"""The installed skills that a model folder keeps, so that the model can be computed anew without a store."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from skillpack.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack.skill import Skill, open_skill
from skillpack_store import Repository, disk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skillpack.installing.model_folder import ModelFolder
    from skillpack.installing.receipt import SkillRecord


def keep_skill(folder: ModelFolder, source: Repository, digest: str) -> None:
    """Keep a skill in the folder, durably; blobs on the same file system that nobody may write are linked.

    Raises:
        CorruptStoreError: the source is damaged.
        OSError: the disk is full or not writable.
    """
    kept = Repository.open_or_create(folder.skills)
    listing = source.skill_manifest(digest)
    for blob in (digest, listing.config.digest, *(layer.digest for layer in listing.layers)):
        if not _linked(kept, source, blob):
            kept.blobs.put(source.blobs.stream(blob), expect=blob)
    disk.sync_directory(kept.blobs.folder)


def open_kept(folder: ModelFolder, record: SkillRecord) -> Skill:
    """Open an installed skill from the folder, re-hashing every byte of it.

    Raises:
        CorruptStoreError: it is damaged or gone.
    """
    try:
        return open_skill(Repository.open(folder.skills), record.digest, record.name)
    except (CorruptStoreError, NotFoundError) as error:
        raise CorruptStoreError(
            f"The copy of skill {record.name} that {folder.root} keeps is damaged: {error}",
            hint=f"Remove {record.name}, or all skills, and install it again.",
        ) from error


def prune_skills(folder: ModelFolder, digests: Iterable[str]) -> None:
    """Remove what belongs to no skill in `digests`; keeps everything if it is not sure."""
    digests = set(digests)
    if not folder.skills.is_dir():
        return
    if not digests:
        disk.remove_tree(folder.skills)
        return
    needed = set(digests)
    try:
        kept = Repository.open(folder.skills)
        for digest in digests:
            listing = kept.skill_manifest(digest)
            needed |= {listing.config.digest, *(layer.digest for layer in listing.layers)}
    except StoreError:
        return
    for blob in set(kept.blobs) - needed:
        disk.unlink(kept.blobs.path(blob))


def _linked(kept: Repository, source: Repository, blob: str) -> bool:
    path = source.blobs.path(blob)
    if path.is_symlink() or path.stat().st_mode & 0o222:
        return False
    with contextlib.suppress(OSError):
        disk.link(path, kept.blobs.path(blob))
        return True
    return False
