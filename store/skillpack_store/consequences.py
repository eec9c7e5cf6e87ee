"""The consequences of damage: which skills, attachments, commits and refs each broken blob affects."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from skillpack_store.documents import EMPTY, Attachment, Commit, SkillManifest
from skillpack_store.errors import StoreError
from skillpack_store.findings import Affected
from skillpack_store.roots import read_anywhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from skillpack_store.findings import Finding
    from skillpack_store.repository import Repository
    from skillpack_store.walking import Walk

__all__ = ["with_consequences"]

T = TypeVar("T")
_SHOWN = 100  # commits


def with_consequences(repository: Repository, walk: Walk, refs: Mapping[str, Iterable[str]]) -> list[Finding]:
    """Return the findings about blobs with what they affect.

    Each broken blob is a bit; what a document names, or leads to through its parents, is the union of bits. So it
    takes one more reading of the documents, however much is broken.

    Args:
        repository: The store.
        walk: A finished walk.
        refs: Ref -> digests that its entries name.
    """
    bits = {digest: 1 << number for number, digest in enumerate(walk.broken)}
    skills = {digest: bits.get(digest, 0) | _skill_bits(repository, digest, bits) for digest in walk.names}
    attachments = {
        digest: bits.get(digest, 0) | _attachment_bits(repository, digest, bits) for digest in walk.attachments
    }
    own = {digest: _commit_bits(repository, digest, bits, skills) for digest in {*walk.parents, *_roots(refs)}}
    reached = _reached(own, walk.parents, bits)
    named = {
        ref: _union(reached.get(digest, bits.get(digest, 0)) for digest in digests) for ref, digests in refs.items()
    }
    by_bit = {
        "skills": _by_bit({f"{walk.names[digest]}@{digest}": mask for digest, mask in skills.items()}),
        "attachments": _by_bit(attachments),
        "commits": _by_bit(own),
        "refs": _by_bit(named),
    }
    return [replace(finding, affected=_affected(by_bit, number)) for number, finding in enumerate(walk.broken.values())]


def _affected(by_bit: Mapping[str, Mapping[int, list[str]]], number: int) -> Affected:
    found = {kind: tuple(sorted(names.get(number, ()))) for kind, names in by_bit.items()}
    commits = found["commits"]
    return Affected(found["skills"], found["attachments"], commits[:_SHOWN], len(commits), found["refs"])


def _roots(refs: Mapping[str, Iterable[str]]) -> set[str]:
    return {digest for ref, digests in refs.items() if not ref.startswith("referrers/") for digest in digests}


def _skill_bits(repository: Repository, digest: str, bits: Mapping[str, int]) -> int:
    manifest = _read(repository, digest, SkillManifest.parse)
    if manifest is None:
        return 0
    return _union(bits.get(blob.digest, 0) for blob in (manifest.config, *manifest.layers))


def _attachment_bits(repository: Repository, digest: str, bits: Mapping[str, int]) -> int:
    attachment = _read(repository, digest, Attachment.parse)
    return 0 if attachment is None else _union(bits.get(file.digest, 0) for file in (EMPTY, *attachment.files))


def _commit_bits(repository: Repository, digest: str, bits: Mapping[str, int], skills: Mapping[str, int]) -> int:
    commit = _read(repository, digest, Commit.parse)
    named = () if commit is None else (skills.get(skill.digest, 0) for skill in commit.skills.values())
    return bits.get(digest, 0) | _union(named)


def _reached(own: Mapping[str, int], parents: Mapping[str, Iterable[str]], bits: Mapping[str, int]) -> dict[str, int]:
    """Return commit -> bits of itself and everything before it."""
    reached: dict[str, int] = {}
    for start in own:
        waiting = [start]
        while waiting:
            digest = waiting[-1]
            missing = [parent for parent in parents.get(digest, ()) if parent not in reached]
            if missing and digest not in reached:
                waiting += missing
                continue
            waiting.pop()
            before = _union(reached[parent] for parent in parents.get(digest, ()))
            reached[digest] = own.get(digest, bits.get(digest, 0)) | before
    return reached


def _by_bit(masks: Mapping[str, int]) -> dict[int, list[str]]:
    found = defaultdict(list)
    for name, mask in masks.items():
        rest = mask
        while rest:
            lowest = rest & -rest
            found[lowest.bit_length() - 1].append(name)
            rest ^= lowest
    return found


def _union(masks: Iterable[int]) -> int:
    result = 0
    for mask in masks:
        result |= mask
    return result


def _read(repository: Repository, digest: str, parse: Callable[[bytes], T]) -> T | None:
    with contextlib.suppress(StoreError, ValueError, OSError):
        return parse(read_anywhere(repository, digest))
    return None
