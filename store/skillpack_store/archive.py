"""One-file archives: an OCI image layout in a tar file, what ``skopeo copy oci-archive:FILE`` reads.

An archive that comes from elsewhere is hostile until shown otherwise: only files with the names that a layout has,
every size checked before anything is read, every blob hashed before it gets its name in the store.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from skillpack_store import disk
from skillpack_store.addresses import check_skill_name
from skillpack_store.blobs import CHUNK
from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, blob_path, digest_of, parse_json
from skillpack_store.documents import (
    EMPTY,
    INDEX,
    MANIFEST,
    NAME,
    SKILL_TYPE,
    Attachment,
    SkillManifest,
    artifact_type_of,
    build_index,
    parse_index,
)
from skillpack_store.errors import CorruptStoreError, NotFoundError, StoreError
from skillpack_store.referrers import enlist, referrers_index, referrers_tag
from skillpack_store.repository import LAYOUT
from skillpack_store.tar import Member, member_bytes, read_members, tar_end
from skillpack_store.view import REF_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TypeVar

    from skillpack_store.repository import Repository

    T = TypeVar("T")

__all__ = ["export_archive", "import_archive", "import_referrers"]

_DOCUMENTS_LIMIT = 64 << 20  # bytes; all of them are in memory at once
_FILE = re.compile(r"(?:\./)?(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})")


def export_archive(repository: Repository, skills: Mapping[str, Descriptor], target: Path | str) -> None:
    """Write skills, with what is attached to them, to one file; equal content gives equal bytes.

    Args:
        repository: Where they are.
        skills: Name -> skill.
        target: The file; one that is there is replaced, in one step and only if all went well.

    Raises:
        NotFoundError: A blob is not in the store.
        CorruptStoreError: A blob is damaged.
        OSError: The file cannot be written.
    """
    entries: dict[str, dict[str, Any]] = {}
    blobs: dict[str, int] = {}
    for name, skill in sorted(skills.items()):
        blobs.update(_skill_blobs(repository, skill))
        blobs.update(_referrer_blobs(repository, skill.digest))
        annotations = {REF_NAME: check_skill_name(name), NAME: name}
        entries[name] = Descriptor(skill.digest, skill.size, MANIFEST, SKILL_TYPE, annotations).to_json()
        if listed := referrers_index(repository, skill.digest):
            tag = referrers_tag(skill.digest)
            entries[tag] = Descriptor(listed.digest, listed.size, INDEX, "", {REF_NAME: tag}).to_json()
    index = build_index(list(entries.values()))
    disk.replace(Path(target), _archive_bytes(repository, index, blobs))


def import_archive(repository: Repository, path: Path | str) -> list[tuple[str, Descriptor]]:
    """Store the skills of an archive; they are in no library until the caller commits them.

    Only what the skills consist of is stored. Attachments are taken over by ``import_referrers``.

    Returns:
        Name and descriptor of each skill, in the archive's order.

    Raises:
        StoreError: The file is not an archive of skills.
        CorruptStoreError: Something in it does not have its digest, or is missing or malformed.
        OSError: It cannot be read.
    """
    with _opened(path) as archive:
        found = [entry for entry in archive.entries if archive.is_skill(entry)]
        if not found:
            raise StoreError(f"There is no skill in {path}.", hint="Archives are made by skillpack export.")
        parsed = [(archive.skill_name(entry), entry, archive.parse(entry, SkillManifest.parse)) for entry in found]
        if len({name for name, _, _ in parsed}) < len(parsed):
            raise archive.damaged("a skill's name is there twice")
        for _, entry, manifest in parsed:
            archive.require([manifest.config, *manifest.layers, entry])
        blobs = {blob.digest: blob for _, _, manifest in parsed for blob in (*manifest.layers, manifest.config)}
        archive.store(repository, [*blobs.values(), *{entry.digest: entry for entry in found}.values()])
    return [(name, Descriptor(entry.digest, entry.size, MANIFEST, SKILL_TYPE)) for name, entry, _ in parsed]


def import_referrers(repository: Repository, path: Path | str) -> list[Descriptor]:
    """Attach what an archive has for skills that are in the store.

    Returns:
        The attachments, including those that were there before.

    Raises:
        StoreError: The file is not an archive of skills.
        CorruptStoreError: Something in it does not have its digest, or is missing or malformed.
    """
    taken = []
    with _opened(path) as archive:
        lists = [entry for entry in archive.entries if entry.annotations.get(REF_NAME, "").startswith("sha256-")]
        for entry in (found for listed in lists for found in archive.parse(listed, parse_index)):
            attachment = archive.parse(entry, Attachment.parse)
            if repository.blobs.has(attachment.subject.digest):
                files = [*attachment.files, EMPTY]
                archive.require(files)
                archive.store(repository, [*files, entry])
                kept = Descriptor(
                    entry.digest, entry.size, MANIFEST, attachment.artifact_type, dict(attachment.annotations)
                )
                enlist(repository, attachment.subject.digest, kept)
                taken.append(kept)
    return taken


def _skill_blobs(repository: Repository, skill: Descriptor) -> dict[str, int]:
    """Return digest -> size of all that a skill consists of."""
    manifest = repository.skill_manifest(skill.digest)
    return {blob.digest: blob.size for blob in (skill, manifest.config, *manifest.layers)}


def _referrer_blobs(repository: Repository, subject: str) -> dict[str, int]:
    """Return digest -> size of all that is attached to a skill, with the list of it."""
    listed = referrers_index(repository, subject)
    if listed is None:
        return {}
    blobs = {listed.digest: listed.size}
    for entry in repository.referrers(subject):
        files = repository.attachment(entry.digest).files
        blobs.update({blob.digest: blob.size for blob in (entry, EMPTY, *files)})
    return blobs


def _archive_bytes(repository: Repository, index: bytes, blobs: Mapping[str, int]) -> Iterator[bytes]:
    for digest, size in sorted(blobs.items()):
        yield from member_bytes(blob_path(digest), size, _sized(repository, digest, size))
    yield from member_bytes("index.json", len(index), [index])
    yield from member_bytes("oci-layout", len(LAYOUT), [LAYOUT])
    yield tar_end()


def _sized(repository: Repository, digest: str, size: int) -> Iterator[bytes]:
    """Yield a blob, hashed, refusing before the first byte one whose size would break the archive's frame."""
    found = repository.blobs.size(digest)
    if found != size:
        raise CorruptStoreError(
            f"Blob {digest} has {found} bytes on disk ({repository.blobs.path(digest)}), {size} were expected.",
            hint="Restore the file from a copy of the store.",
        )
    yield from repository.blobs.stream(digest)


@dataclass
class _Archive:
    """An archive whose files all have names and places that they may have."""

    path: Path
    file: BinaryIO
    members: Mapping[str, Member]
    entries: list[Descriptor]
    documents: dict[tuple[str, Callable[[bytes], Any]], Any]
    seen: set[str] = field(default_factory=set)
    parsed: int = 0

    def damaged(self, reason: str) -> CorruptStoreError:
        hint = "Get the archive again from where it came from; nothing of it was put into a library."
        return CorruptStoreError(f"The archive {self.path} cannot be used: {reason}.", hint=hint)

    def chunks(self, member: Member) -> Iterator[bytes]:
        self.file.seek(member.start)
        left = member.size
        while left:
            chunk = self.file.read(min(left, CHUNK))
            if not chunk:
                raise self.damaged("it became shorter while it was read")
            left -= len(chunk)
            yield chunk

    def require(self, blobs: Iterable[Descriptor]) -> None:
        """Refuse the archive unless it has all of these, in their sizes."""
        for blob in blobs:
            member = self.members.get(blob_path(blob.digest))
            if member is None:
                raise self.damaged(f"blob {blob.digest} is missing")
            if member.size != blob.size:
                raise self.damaged(f"blob {blob.digest} has {member.size} bytes, {blob.size} were announced")

    def is_skill(self, entry: Descriptor) -> bool:
        """Tell skills from what other programs put beside them; only the manifest itself is sure to say it."""
        if entry.media_type != MANIFEST or entry.artifact_type not in {"", SKILL_TYPE}:
            return False
        # skopeo leaves the type out of an index that it copies.
        return bool(entry.artifact_type) or self.parse(entry, artifact_type_of) == SKILL_TYPE

    def parse(self, document: Descriptor, parse: Callable[[bytes], T]) -> T:
        self.require([document])
        # Once only: an index may name one large document a thousand times.
        key = (document.digest, parse)
        if key not in self.documents:
            if document.digest not in self.seen:
                self.seen.add(document.digest)
                self.parsed += document.size
            if self.parsed > _DOCUMENTS_LIMIT:
                raise self.damaged(f"its documents have more than {_DOCUMENTS_LIMIT} bytes together")
            self.documents[key] = self._parse(document, parse)
        found: T = self.documents[key]
        return found

    def _parse(self, document: Descriptor, parse: Callable[[bytes], T]) -> T:
        if document.size > DOCUMENT_LIMIT:
            raise self.damaged(f"the document {document.digest} is too long")
        data = b"".join(self.chunks(self.members[blob_path(document.digest)]))
        if digest_of(data) != document.digest:
            raise self.damaged(f"blob {document.digest} has another digest, {digest_of(data)}")
        try:
            return parse(data)
        except ValueError as error:
            raise self.damaged(f"in blob {document.digest}, {error}") from error

    def store(self, repository: Repository, blobs: Iterable[Descriptor]) -> None:
        for blob in blobs:
            repository.blobs.put(self.chunks(self.members[blob_path(blob.digest)]), expect=blob.digest)

    def skill_name(self, entry: Descriptor) -> str:
        name = entry.annotations.get(NAME) or entry.annotations.get(REF_NAME, "")
        try:
            return check_skill_name(name)
        except StoreError as error:
            raise self.damaged(error.message.rstrip(".")) from None


@contextmanager
def _opened(path: Path | str) -> Iterator[_Archive]:
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise NotFoundError(f"There is no archive {path}.") from None
    with file:
        try:
            length = path.stat().st_size
            members = _named(read_members(file, length))
            archive = _Archive(path, file, members, entries=[], documents={})
            archive.entries.extend(_read_index(archive))
        except ValueError as error:
            raise StoreError(
                f"{path} is not an archive of skills: {error}.",
                hint="Archives are made by skillpack export; a compressed one must be unpacked first.",
            ) from error
        yield archive


def _named(members: Iterable[Member]) -> dict[str, Member]:
    named: dict[str, Member] = {}
    for member in members:
        found = _FILE.fullmatch(member.name)
        if found is None:
            raise ValueError(f"the name {member.name[:120]!r} has no place in it")
        if found[1] in named:
            raise ValueError(f"the name {found[1]} is there twice")
        named[found[1]] = member
    if missing := {"oci-layout", "index.json"} - named.keys():
        raise ValueError(f"{' and '.join(sorted(missing))} is missing")
    return named


def _read_index(archive: _Archive) -> list[Descriptor]:
    layout, index = (_small(archive, name) for name in ("oci-layout", "index.json"))
    if layout != {"imageLayoutVersion": "1.0.0"}:
        raise ValueError("its layout is not 1.0.0")
    if not isinstance(index, dict) or not isinstance(index.get("manifests"), list):
        raise ValueError("its index.json is not an image index")  # noqa: TRY004  a document's value, not a caller's
    return [Descriptor.from_json(entry) for entry in index["manifests"]]


def _small(archive: _Archive, name: str) -> Any:
    member = archive.members[name]
    if member.size > DOCUMENT_LIMIT:
        raise ValueError(f"its {name} is too long")
    return parse_json(b"".join(archive.chunks(member)))
