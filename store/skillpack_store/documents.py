"""The JSON documents of a store: skills, commits, attachments and lists of attachments.

All are OCI documents (image-spec v1.1, manifest.md and image-index.md) in canonical JSON, so that building one twice
gives one digest. Reading is strict about everything that is used and passes over the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from skillpack_store.addresses import check_skill_name
from skillpack_store.descriptors import (
    DOCUMENT_LIMIT,
    Descriptor,
    canonical_json,
    digest_of,
    parse_digest,
    parse_json,
    parse_media_type,
    text_map,
)
from skillpack_store.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["COMMIT_TYPE", "INDEX", "MANIFEST", "NAME", "PARENTS", "SKILL_TYPE", "Attachment", "Commit", "SkillManifest"]

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SKILL_TYPE = "application/vnd.skillpack.skill.v1+json"
COMMIT_TYPE = "application/vnd.skillpack.library.v1+json"
EMPTY = Descriptor(digest_of(b"{}"), 2, "application/vnd.oci.empty.v1+json")

NAME = "org.skillpack.name"
_AUTHOR = "org.skillpack.author"
_MESSAGE = "org.skillpack.message"
PARENTS = "org.skillpack.parents"
_TIME = "org.opencontainers.image.created"
_TOOLS = "org.skillpack.tools"


@dataclass(frozen=True)
class SkillManifest:
    """A skill as the store sees it: one config and some layers, whose meaning is the caller's.

    Attributes:
        config: The skill's own description.
        layers: Its coded streams, in order.
        size: Bytes of manifest, config and layers together; a blob that is used twice counts once.
    """

    config: Descriptor
    layers: list[Descriptor]
    size: int

    @staticmethod
    def build(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
        """Return the manifest of a skill."""
        return _document(
            MANIFEST,
            artifactType=SKILL_TYPE,
            config=config.to_json(),
            layers=[layer.to_json() for layer in layers],
        )

    @classmethod
    def parse(cls, data: bytes) -> SkillManifest:
        """Read the manifest of a skill; raises ``ValueError`` with what is wrong with it."""
        document = _open(data, MANIFEST, SKILL_TYPE)
        config = Descriptor.from_json(document.get("config"))
        layers = _descriptors(document, "layers")
        blobs = {blob.digest: blob.size for blob in (config, *layers)}
        return cls(config, layers, len(data) + sum(blobs.values()))


@dataclass(frozen=True)
class Commit:
    """One state of a library.

    Attributes:
        digest: The digest of the commit's document.
        skills: Name -> skill, sorted by name.
        parents: Digests of the commits that this one follows; the first is the one it was made on.
        author: Who.
        time: When, RFC 3339 in UTC with seconds.
        message: Why.
        tools: Program -> version, what made it.
    """

    digest: str
    skills: dict[str, Descriptor]
    parents: tuple[str, ...] = ()
    author: str = ""
    time: str = ""
    message: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def build(
        skills: Mapping[str, Descriptor],
        *,
        parents: Sequence[str],
        author: str,
        time: str,
        message: str,
        tools: Mapping[str, str],
    ) -> bytes:
        """Return the document of a commit.

        Raises:
            StoreError: A skill's name is not allowed, or the library has more skills than fit in one document.
        """
        # Without their artifactType: skopeo 1.9 loses it and would write another index, with another digest.
        entries = [
            Descriptor(skill.digest, skill.size, MANIFEST, "", {NAME: check_skill_name(name)})
            for name, skill in sorted(skills.items())
        ]
        annotations = {
            _AUTHOR: author,
            _TIME: time,
            _MESSAGE: message,
            _TOOLS: canonical_json(text_map(dict(tools))).decode(),
        }
        if parents:
            annotations[PARENTS] = " ".join(parents)
        return _document(
            INDEX,
            artifactType=COMMIT_TYPE,
            manifests=[entry.to_json() for entry in entries],
            annotations=annotations,
        )

    @classmethod
    def parse(cls, data: bytes) -> Commit:
        """Read the document of a commit; raises ``ValueError`` with what is wrong with it."""
        document = _open(data, INDEX, COMMIT_TYPE)
        annotations = text_map(document.get("annotations", {}))
        skills: dict[str, Descriptor] = {}
        for entry in _descriptors(document, "manifests"):
            name = entry.annotations.get(NAME, "")
            _require_name(name)
            if name in skills:
                raise ValueError(f"the skill {name} is there twice")
            skills[name] = Descriptor(entry.digest, entry.size, entry.media_type, entry.artifact_type or SKILL_TYPE)
        return cls(
            digest=digest_of(data),
            skills=dict(sorted(skills.items())),
            parents=tuple(parse_digest(parent) for parent in annotations.get(PARENTS, "").split()),
            author=annotations.get(_AUTHOR, ""),
            time=annotations.get(_TIME, ""),
            message=annotations.get(_MESSAGE, ""),
            tools=text_map(parse_json(annotations.get(_TOOLS, "{}").encode())),
        )


@dataclass(frozen=True)
class Attachment:
    """Files about a skill that are not part of it, such as a model card or a signature.

    Attributes:
        artifact_type: What kind of attachment it is.
        subject: What it is attached to.
        files: One descriptor a file; the annotation ``org.opencontainers.image.title`` is its name.
        annotations: Text about the attachment.
    """

    artifact_type: str
    subject: Descriptor
    files: list[Descriptor]
    annotations: Mapping[str, str]

    def build(self) -> bytes:
        """Return the attachment's manifest."""
        return _document(
            MANIFEST,
            artifactType=self.artifact_type,
            config=EMPTY.to_json(),
            layers=[file.to_json() for file in self.files or [EMPTY]],
            subject=Descriptor(self.subject.digest, self.subject.size, self.subject.media_type).to_json(),
            **({"annotations": dict(self.annotations)} if self.annotations else {}),
        )

    @classmethod
    def parse(cls, data: bytes) -> Attachment:
        """Read an attachment's manifest; raises ``ValueError`` with what is wrong with it."""
        document = _open(data, MANIFEST)
        if document.get("config") != EMPTY.to_json():
            raise ValueError("the config of an attachment must be the empty descriptor")
        files = [file for file in _descriptors(document, "layers") if file.digest != EMPTY.digest or file.annotations]
        subject = Descriptor.from_json(document.get("subject"))
        annotations = text_map(document.get("annotations", {}))
        return cls(parse_media_type(document.get("artifactType")), subject, files, annotations)


def artifact_type_of(data: bytes) -> str:
    """Return the artifactType of a manifest, empty if it has none; raises ``ValueError`` with what is wrong with it."""
    return str(_open(data, MANIFEST).get("artifactType", ""))


def is_index(data: bytes) -> bool:
    """Tell whether a document is an image index: a commit or a list."""
    try:
        _open(data, INDEX)
    except ValueError:
        return False
    return True


def build_index(manifests: Sequence[Mapping[str, Any]]) -> bytes:
    """Return an image index of these entries."""
    return _document(INDEX, manifests=list(manifests))


def parse_index(data: bytes) -> list[Descriptor]:
    """Return the entries of an image index; raises ``ValueError`` with what is wrong with it."""
    return _descriptors(_open(data, INDEX), "manifests")


def attached_files(data: bytes, subject: str) -> list[Descriptor]:
    """Return what an attachment refers to, whatever program made it.

    Raises:
        ValueError: It is not an attachment of this subject.
    """
    document = parse_json(data)
    if not isinstance(document, dict) or document.get("mediaType") != MANIFEST:
        raise ValueError("it is not an image manifest")
    if Descriptor.from_json(document.get("subject")).digest != subject:
        raise ValueError(f"it is not attached to {subject}")
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ValueError("its layers are not a list")  # noqa: TRY004  a document's value, not a caller's
    return [Descriptor.from_json(document.get("config")), *map(Descriptor.from_json, layers)]


def rfc3339(time: datetime | None) -> str:
    """Write a time with its zone (default: now) as RFC 3339 in UTC with seconds.

    >>> rfc3339(datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc))
    '2026-01-02T03:04:05Z'
    """
    if time is not None and time.tzinfo is None:
        raise ValueError("the time of a commit needs a time zone, such as datetime.timezone.utc")
    moment = datetime.now(timezone.utc) if time is None else time.astimezone(timezone.utc)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _document(media_type: str, **fields: Any) -> bytes:
    data = canonical_json({"schemaVersion": 2, "mediaType": media_type, **fields})
    if len(data) > DOCUMENT_LIMIT:
        raise StoreError(
            f"The document needs {len(data)} bytes, more than the {DOCUMENT_LIMIT} that registries accept.",
            hint="Split it: fewer skills in a library, or fewer layers in a skill.",
        )
    return data


def _open(data: bytes, media_type: str, artifact_type: str | None = None) -> dict[str, Any]:
    document = parse_json(data)
    if not isinstance(document, dict) or document.get("schemaVersion") != 2:
        raise ValueError("it is not an OCI document of schema version 2")
    if document.get("mediaType") != media_type:
        raise ValueError(f"its mediaType is {str(document.get('mediaType'))[:80]!r}, expected was {media_type}")
    if artifact_type is not None and document.get("artifactType") != artifact_type:
        found = str(document.get("artifactType"))[:80]
        raise ValueError(f"its artifactType is {found!r}, expected was {artifact_type}")
    return document


def _descriptors(document: Mapping[str, Any], key: str) -> list[Descriptor]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"its {key} are not a list")  # noqa: TRY004  the value is a document's, not a caller's
    return [Descriptor.from_json(entry) for entry in entries]


def _require_name(name: str) -> None:
    try:
        check_skill_name(name)
    except StoreError as error:
        raise ValueError(error.message) from None
