"""A store of skills: one folder, an OCI image layout with refs."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from skillpack_store import commits, disk, referrers, resolving
from skillpack_store.blobs import BlobStore
from skillpack_store.commit_graph import CommitGraph
from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, canonical_json, parse_json, parse_media_type
from skillpack_store.documents import MANIFEST, SKILL_TYPE, Attachment, Commit, SkillManifest, build_index
from skillpack_store.errors import CorruptStoreError, NoStoreError, StoreError
from skillpack_store.reading import read_small, refuse_link
from skillpack_store.refs import KINDS, RefStore
from skillpack_store.trash import Trash
from skillpack_store.writers import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from typing_extensions import Buffer

    from skillpack_store.addresses import Address
    from skillpack_store.resolving import ResolvedSkill

__all__ = ["Repository"]

LAYOUT = canonical_json({"imageLayoutVersion": "1.0.0"})
OWN_NAMES = frozenset(
    {"blobs", "cache", "incoming", "index.json", "oci-layout", "quarantine", "refs", "remotes.json", "trash", "writers"}
)
"""What a store's folder may hold."""

T = TypeVar("T")


class Repository:
    """A store that exists; made by ``create``, ``open`` or ``open_or_create``.

    Attributes:
        path: The store's folder.
        blobs: Its content.
        refs: Its branches, tags and lists of attachments, and what it knows of remotes.
        graph: Its commits in short.
        trash: What a garbage collection took out of use and has not deleted yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        folder = path / "blobs" / "sha256"
        self.trash = Trash(path / "trash", folder)
        self.blobs = BlobStore(folder, self.trash)
        self.refs = RefStore(path / "refs")
        self.graph = CommitGraph(self, path / "cache")

    @classmethod
    def create(cls, path: Path | str) -> Repository:
        """Make an empty store.

        Args:
            path: A folder that is empty or not there, or in which an earlier call was interrupted.

        Raises:
            StoreError: The folder holds something else.
            CorruptStoreError: A folder in it is a link to somewhere else.
        """
        path = Path(path)
        present = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if "oci-layout" in present:
            raise StoreError(f"There is a store in {path} already.", hint="Open it, or choose another folder.")
        if foreign := sorted(name for name in present - OWN_NAMES if not name.endswith(".tmp")):
            raise StoreError(
                f"No store can be made in {path}: the folder is not empty ({', '.join(foreign[:3])}).",
                hint="Choose an empty folder.",
            )
        repository = cls(path)
        repository.refuse_links()
        disk.make_directory(repository.blobs.folder)
        for kind in KINDS:
            disk.make_directory(repository.refs.folder / kind)
        disk.write_exclusive(path / "index.json", [build_index([])])
        # Last, because this file says that the rest is there.
        disk.write_exclusive(path / "oci-layout", [LAYOUT])
        return repository

    @classmethod
    def open(cls, path: Path | str) -> Repository:
        """Open a store.

        Raises:
            NoStoreError: There is none.
            StoreError: It has a layout that this version does not know.
        """
        path = Path(path)
        try:
            data = read_small(path / "oci-layout", DOCUMENT_LIMIT)
        except (FileNotFoundError, NotADirectoryError):
            raise NoStoreError(
                f"There is no store in {path}.",
                hint="Check the path. A store is made when the first skill is packed, imported or pulled into it.",
            ) from None
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.EINVAL}:
                raise
            raise CorruptStoreError(f"{path / 'oci-layout'} is not a regular file.", hint="Is this a store?") from None
        try:
            version = parse_json(data, limit=DOCUMENT_LIMIT)["imageLayoutVersion"]
        except (ValueError, TypeError, KeyError):
            raise CorruptStoreError(
                f"The file {path / 'oci-layout'} is damaged.",
                hint=f"It should contain exactly {LAYOUT.decode()}",
            ) from None
        if version != "1.0.0":
            raise StoreError(f"The store in {path} has layout {version!r}, not 1.0.0.", hint="Update SkillPack.")
        repository = cls(path)
        repository.refuse_links()
        return repository

    @classmethod
    def open_or_create(cls, path: Path | str) -> Repository:
        """Open the store, or make it if the folder is empty or not there."""
        if not (Path(path) / "oci-layout").exists():
            try:
                return cls.create(path)
            except StoreError:
                # Another process may have made it meanwhile.
                if not (Path(path) / "oci-layout").exists():
                    raise
        return cls.open(path)

    def writing(self) -> AbstractContextManager[None]:
        """Announce a writer, for the time of a ``with`` block.

        What is written or used again within it is not collected, however short the grace period, for up to a day.
        ``commit``, ``tag`` and ``attach`` do it themselves; around several of them and what they build on, it also
        protects what is stored and not committed yet.
        """
        return writing(self.path / "writers")

    def refuse_links(self) -> None:
        """Refuse a store with a folder that is a symbolic link; raises ``CorruptStoreError``."""
        for folder in (self.path / "blobs", self.blobs.folder, self.refs.folder):
            refuse_link(folder)

    def put_skill(
        self, config: bytes, config_media_type: str, layers: Sequence[tuple[Iterable[Buffer], str]]
    ) -> Descriptor:
        """Store a skill; nothing refers to it until it is committed.

        Args:
            config: The skill's own description.
            config_media_type: Its media type.
            layers: Chunks and media type of each layer, read one after the other.

        Returns:
            The descriptor of the skill's manifest. Equal content gives an equal digest.
        """
        stored = []
        for chunks, media_type in layers:
            layer = self.blobs.put(chunks)
            stored.append(Descriptor(layer.digest, layer.size, parse_media_type(media_type)))
        described = self.blobs.put([config])
        head = Descriptor(described.digest, described.size, parse_media_type(config_media_type))
        manifest = self.blobs.put([SkillManifest.build(head, stored)])
        return Descriptor(manifest.digest, manifest.size, MANIFEST, SKILL_TYPE)

    def skill_manifest(self, digest: str) -> SkillManifest:
        """Return what the skill consists of.

        Raises:
            NotFoundError: It is not in the store.
            CorruptStoreError: It is damaged or not a skill.
        """
        return self.read_document(digest, SkillManifest.parse)

    def commit(
        self,
        branch: str,
        change: Callable[[dict[str, Descriptor]], dict[str, Descriptor]],
        *,
        author: str,
        message: str,
        tools: Mapping[str, str],
        time: datetime | None = None,
    ) -> Commit:
        """Add a commit to a branch, which is made if it is not there.

        Args:
            branch: Its name.
            change: Gets the branch's skills by name, returns what they shall be. It is called again if somebody else
                commits meanwhile, with their result; so no commit is lost.
            author: Who.
            message: Why.
            tools: Program -> version.
            time: When, with a time zone; default now.

        Returns:
            The new commit, or the head if ``change`` changes nothing.

        Raises:
            NotFoundError: A skill, or a part of it, is not in the store.
            BusyError: Others were faster for a minute.
        """
        return commits.add_commit(self, branch, change, author=author, message=message, tools=tools, time=time)

    def delete(
        self,
        name: str,
        branch: str = "main",
        *,
        author: str,
        message: str = "",
        tools: Mapping[str, str],
    ) -> Commit:
        """Add a commit without this skill; its versions stay in the history.

        Raises:
            NotFoundError: It is not there.
        """
        return commits.delete_skill(self, name, branch, author=author, message=message, tools=tools)

    def head(self, branch: str = "main") -> Commit | None:
        """Return the newest commit of a branch; None if there is no such branch."""
        return commits.find_head(self, branch)

    def history(self, branch: str = "main") -> Iterator[Commit]:
        """Yield the commits of a branch, newest first, by first parents; none if there is no such branch."""
        return commits.walk_history(self, branch)

    def skills(self, branch: str = "main") -> dict[str, Descriptor]:
        """Return the skills at the head of a branch, sorted by name; empty if there is no such branch."""
        head = self.head(branch)
        return {} if head is None else head.skills

    def branches(self) -> dict[str, str]:
        """Return branch -> digest of its newest commit."""
        return {name: str(value.digest) for name, value in self.refs.list("heads").items()}

    def tag(self, name: str, commit: Commit | str, *, move: bool = False) -> None:
        """Give a commit (or the digest of one) a name.

        Raises:
            StoreError: The tag names another commit and ``move`` is not set.
            BusyError: Somebody else set the tag meanwhile.
        """
        commits.add_tag(self, name, commit, move=move)

    def tags(self) -> dict[str, str]:
        """Return tag -> digest of its commit."""
        return {name: str(value.digest) for name, value in self.refs.list("tags").items()}

    def resolve(self, address: Address | str, branch: str = "main") -> ResolvedSkill:
        """Return the skill that an address means (see ``parse_address``).

        Raises:
            NotFoundError: There is none; the hint says what there is.
            StoreError: It is not an address, or a digest prefix fits several versions.
        """
        return resolving.resolve_address(self, address, branch)

    def attach(
        self,
        subject: Descriptor,
        artifact_type: str,
        files: Sequence[tuple[bytes, str, str]],
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Attach files to a skill without changing it.

        Args:
            subject: The skill.
            artifact_type: The media type of the attachment as a whole.
            files: Content, media type and title of each.
            annotations: Text about it.

        Returns:
            The descriptor of the attachment's manifest.

        Raises:
            NotFoundError: The subject is not in the store.
        """
        return referrers.attach_files(self, subject, artifact_type, files, annotations or {})

    def referrers(self, subject: str) -> list[Descriptor]:
        """Return what is attached to the skill with this digest, oldest first."""
        return referrers.list_referrers(self, subject)

    def attachment(self, digest: str) -> Attachment:
        """Return what an attachment consists of."""
        return self.read_document(digest, Attachment.parse)

    def read_commit(self, digest: str) -> Commit:
        """Return the commit with this digest.

        Raises:
            NotFoundError: It is not in the store.
            CorruptStoreError: It is damaged or not a commit.
        """
        return self.read_document(digest, Commit.parse)

    def read_document(self, digest: str, parse: Callable[[bytes], T]) -> T:
        """Return a blob as ``parse`` understands it, whose ``ValueError`` becomes a ``CorruptStoreError``."""
        data = self.blobs.read(digest, limit=DOCUMENT_LIMIT)
        try:
            return parse(data)
        except ValueError as error:
            raise CorruptStoreError(
                f"Blob {digest} ({self.blobs.path(digest)}) cannot be used: {error}.",
                hint="It was written by another program or a newer version.",
            ) from error
