"""A versioned, content-addressed store for skills, in the form of an OCI image layout.

Knows bytes, digests and refs; what a skill means is its caller's business.
"""

from __future__ import annotations

from skillpack_store.addresses import Address, check_skill_name, parse_address
from skillpack_store.archive import export_archive, import_archive, import_referrers
from skillpack_store.changes import SkillChange, find_changes
from skillpack_store.commit_graph import CommitRecord
from skillpack_store.descriptors import Descriptor, canonical_json, digest_of, parse_digest, parse_json
from skillpack_store.documents import SKILL_TYPE, Attachment, Commit, SkillManifest
from skillpack_store.errors import (
    AuthenticationError,
    BusyError,
    CorruptStoreError,
    MergeConflictError,
    NoStoreError,
    NotFoundError,
    RemoteError,
    ReportedError,
    StoreError,
)
from skillpack_store.history import RefEntry, ref_log, skill_records, sorted_records
from skillpack_store.merging import Merge, Resolution, merge_revision
from skillpack_store.naming import create_branch, delete_ref, only_named_by, tag_revision
from skillpack_store.repository import Repository
from skillpack_store.resolving import ResolvedSkill
from skillpack_store.revisions import find_ref, parse_revision, resolve_revision
from skillpack_store.undoing import (
    Deleted,
    Undone,
    list_deleted,
    restore_state,
    revert_commit,
    undelete_ref,
    undelete_skill,
)
from skillpack_store.versions import SkillVersion, number_versions

__all__ = [
    "SKILL_TYPE",
    "Address",
    "Attachment",
    "AuthenticationError",
    "BusyError",
    "Commit",
    "CommitRecord",
    "CorruptStoreError",
    "Deleted",
    "Descriptor",
    "Merge",
    "MergeConflictError",
    "NoStoreError",
    "NotFoundError",
    "RefEntry",
    "RemoteError",
    "ReportedError",
    "Repository",
    "Resolution",
    "ResolvedSkill",
    "SkillChange",
    "SkillManifest",
    "SkillVersion",
    "StoreError",
    "Undone",
    "canonical_json",
    "check_skill_name",
    "create_branch",
    "delete_ref",
    "digest_of",
    "export_archive",
    "find_changes",
    "find_ref",
    "import_archive",
    "import_referrers",
    "list_deleted",
    "merge_revision",
    "number_versions",
    "only_named_by",
    "parse_address",
    "parse_digest",
    "parse_json",
    "parse_revision",
    "ref_log",
    "resolve_revision",
    "restore_state",
    "revert_commit",
    "skill_records",
    "sorted_records",
    "tag_revision",
    "undelete_ref",
    "undelete_skill",
]
