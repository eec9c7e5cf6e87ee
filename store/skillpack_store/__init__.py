"""A versioned, content-addressed store for skills, in the form of an OCI image layout.

Knows bytes, digests and refs; what a skill means is its caller's business.
"""

from __future__ import annotations

from skillpack_store.addresses import Address, check_skill_name, parse_address
from skillpack_store.archive import export_archive, import_archive, import_referrers
from skillpack_store.descriptors import Descriptor, canonical_json, digest_of, parse_digest, parse_json
from skillpack_store.documents import SKILL_TYPE, Attachment, Commit, SkillManifest
from skillpack_store.errors import (
    AuthenticationError,
    BusyError,
    CorruptStoreError,
    NoStoreError,
    NotFoundError,
    RemoteError,
    ReportedError,
    StoreError,
)
from skillpack_store.repository import Repository
from skillpack_store.resolving import ResolvedSkill

__all__ = [
    "SKILL_TYPE",
    "Address",
    "Attachment",
    "AuthenticationError",
    "BusyError",
    "Commit",
    "CorruptStoreError",
    "Descriptor",
    "NoStoreError",
    "NotFoundError",
    "RemoteError",
    "ReportedError",
    "Repository",
    "ResolvedSkill",
    "SkillManifest",
    "StoreError",
    "canonical_json",
    "check_skill_name",
    "digest_of",
    "export_archive",
    "import_archive",
    "import_referrers",
    "parse_address",
    "parse_digest",
    "parse_json",
]
