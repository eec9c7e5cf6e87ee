"""Small skills for the tests of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack_store.fsck import check_store

if TYPE_CHECKING:
    from skillpack_store import Commit, Descriptor, Repository

CONFIG_TYPE = "application/vnd.skillpack.config.v1+json"
LAYER_TYPE = "application/vnd.skillpack.layer.v1.safetensors"
WHO = {"author": "Ada <ada@example.org>", "tools": {"skillpack": "0.1.0"}}


def put_skill(repository: Repository, text: str) -> Descriptor:
    layers = [([text.encode(), b" coded"], LAYER_TYPE), ([b"shared by all skills"], LAYER_TYPE)]
    return repository.put_skill(b'{"about":"%s"}' % text.encode(), CONFIG_TYPE, layers)


def commit_skill(repository: Repository, name: str, text: str, branch: str = "main") -> Commit:
    skill = put_skill(repository, text)
    return repository.commit(branch, lambda skills: {**skills, name: skill}, message=f"Add {name}", **WHO)


def verify_everything(repository: Repository) -> None:
    """Hash every blob that any ref names, at any distance; and the product's own full check must find no error."""
    assert [(found.problem, found.path) for found in check_store(repository, level="full").errors] == []
    tips = [*repository.branches().values(), *repository.tags().values()]
    seen: set[str] = set()
    while tips:
        commit = repository.read_commit(tips.pop())
        # Once each: histories that merge one another have very many ways through them.
        tips.extend(parent for parent in commit.parents if parent not in seen)
        seen.update(commit.parents)
        for skill in commit.skills.values():
            manifest = repository.skill_manifest(skill.digest)
            for blob in (manifest.config, *manifest.layers):
                repository.blobs.verify(blob.digest)
                assert repository.blobs.size(blob.digest) == blob.size
            for entry in repository.referrers(skill.digest):
                for file in repository.attachment(entry.digest).files:
                    repository.blobs.verify(file.digest)
