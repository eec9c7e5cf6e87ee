"""``skillpack.json``: what a repository of the Hub says of its refs, and of the files that people see."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skillpack_store.descriptors import canonical_json, parse_digest, parse_json
from skillpack_store.errors import StoreError
from skillpack_store.refs import SHARED_KINDS, check_ref

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BLOBS", "STATE_LIMIT", "STATE_PATH", "File", "SkillView", "State", "blob_path"]

STATE_PATH = "skillpack.json"
STATE_LIMIT = 64 << 20  # bytes
BLOBS = ".skillpack/blobs"
_FORMAT = 1
_FILE = re.compile(r"skills/[a-z0-9]+(?:[._-][a-z0-9]+)*/[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


@dataclass(frozen=True)
class File:
    """Content that a path of the view has: digest and size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class SkillView:
    """What people see of a skill.

    Attributes:
        digest: The skill.
        attachments: The list of what is attached to it; empty if there is none.
        base_model: The base as the attached card names it; empty if it does not.
        license: The license that the card names; empty if it does not.
        files: Path -> content.
    """

    digest: str
    attachments: str = ""
    base_model: str = ""
    license: str = ""
    files: Mapping[str, File] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The whole document.

    Attributes:
        refs: Ref -> digest.
        skills: Name -> what people see of the skills of the branch ``main``.
        card: Digest of the ``README.md`` that was written here last; empty if none was.
    """

    refs: Mapping[str, str] = field(default_factory=dict)
    skills: Mapping[str, SkillView] = field(default_factory=dict)
    card: str = ""

    def files(self) -> dict[str, File]:
        """Return path -> content of the whole view."""
        return {path: file for skill in self.skills.values() for path, file in skill.files.items()}

    def build(self) -> bytes:
        """Return the document."""
        skills = {
            name: {
                "digest": skill.digest,
                "attachments": skill.attachments,
                "base_model": skill.base_model,
                "license": skill.license,
                "files": {path: {"digest": file.digest, "size": file.size} for path, file in skill.files.items()},
            }
            for name, skill in self.skills.items()
        }
        return canonical_json({"format": _FORMAT, "refs": dict(self.refs), "skills": skills, "card": self.card})

    @classmethod
    def parse(cls, data: bytes) -> State:
        """Read the document; raises ``ValueError`` with what is wrong with it."""
        document = parse_json(data, limit=STATE_LIMIT)
        try:
            if document["format"] != _FORMAT:
                raise ValueError(f"its format is {str(document['format'])[:20]!r}, not {_FORMAT}: update SkillPack")
            refs = {_ref(ref): parse_digest(digest) for ref, digest in document["refs"].items()}
            skills = {name: _skill(entry) for name, entry in document.get("skills", {}).items()}
            return cls(refs, skills, str(document.get("card", "")))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a part of it is missing or has the wrong form ({error})") from None


def blob_path(digest: str) -> str:
    """Return where the repository has a blob."""
    return f"{BLOBS}/{parse_digest(digest).removeprefix('sha256:')}"


def _ref(ref: str) -> str:
    kind, _, name = ref.partition("/")
    try:
        check_ref(name)
    except StoreError as error:
        raise ValueError(error.message) from None
    if kind not in SHARED_KINDS:
        raise ValueError(f"{ref[:80]!r} is not a ref")
    return ref


def _skill(entry: Any) -> SkillView:
    files = {}
    for path, file in entry["files"].items():
        # These paths are deleted when the skill goes: they must not be anything else.
        if not _FILE.fullmatch(path):
            raise ValueError(f"{path[:80]!r} is not a file of a skill")
        files[path] = File(parse_digest(file["digest"]), int(file["size"]))
    attachments, base_model, license_name = (
        str(entry.get(key, "")) for key in ("attachments", "base_model", "license")
    )
    return SkillView(parse_digest(entry["digest"]), attachments, base_model, license_name, files)
