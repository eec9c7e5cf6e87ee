from __future__ import annotations

import os

import pytest

from skillpack_store import (
    MergeConflictError,
    NotFoundError,
    StoreError,
    create_branch,
    delete_ref,
    list_deleted,
    merge_revision,
    only_named_by,
    ref_log,
    restore_state,
    revert_commit,
    tag_revision,
    undelete_ref,
    undelete_skill,
)
from tests.store.skills import WHO, commit_skill


@pytest.fixture
def library(repository):
    """math: one, two, three; code: one, in the first commit."""
    commit_skill(repository, "code", "code one")
    for text in ("one", "two", "three"):
        commit_skill(repository, "math", text)
    return repository


def digests(repository, branch="main"):
    return {name: skill.digest for name, skill in repository.skills(branch).items()}


def test_restore_the_whole_library(library):
    head, old = library.head(), library.read_commit(library.head().parents[0])
    commit_skill(library, "new", "new")
    undone = restore_state(library, "main~2", **WHO)
    assert library.skills() == old.skills
    assert undone.commit.parents == (library.refs.log("heads/main")[1].digest,)
    assert [(change.name, change.kind) for change in undone.changes] == [("math", "changed"), ("new", "removed")]
    assert head.digest in {commit.digest for commit in library.history()}
    assert library.resolve("math").version == 2
    assert undone.commit.message.startswith("Restore main~2\n")


def test_restore_some_skills(library):
    library.delete("code", **WHO)
    restore_state(library, "main~3", ["math"], **WHO)
    assert digests(library) == {"math": library.resolve("math@1").descriptor.digest}
    restore_state(library, "main~2", ["code"], **WHO)
    assert list(library.skills()) == ["code", "math"]


def test_restoring_to_before_a_skill_was_there_deletes_it(library):
    restore_state(library, "main~3", ["math"], **WHO)
    assert list(library.skills()) == ["code"]


def test_nothing_to_restore(library):
    head = library.head()
    undone = restore_state(library, "main", **WHO)
    assert (undone.commit, undone.changes, library.head()) == (head, (), head)


def test_restore_what_is_not_there(library):
    with pytest.raises(NotFoundError) as caught:
        restore_state(library, "main~1", ["maht"], **WHO)
    assert "Did you mean math?" in caught.value.hint
    with pytest.raises(NotFoundError):
        restore_state(library, "main~9", **WHO)
    with pytest.raises(NotFoundError):
        restore_state(library, "main", branch="none", **WHO)


def test_revert(library):
    before = digests(library)
    commit_skill(library, "code", "code two")
    undone = revert_commit(library, "main", **WHO)
    assert digests(library) == before
    assert undone.commit.message.startswith('Revert "Add code"\n\nThis undoes commit sha256:')
    # The undoing can be undone.
    revert_commit(library, "main", **WHO)
    assert library.resolve("code").version == 2


def test_revert_of_a_deletion_and_of_an_addition(library):
    before = digests(library)
    library.delete("math", **WHO)
    revert_commit(library, "main", **WHO)
    assert digests(library) == before
    revert_commit(library, "main~5", **WHO)
    assert list(library.skills()) == ["math"]


def test_revert_of_a_commit_below_others(library):
    commit_skill(library, "code", "code two")
    commit_skill(library, "math", "four")
    revert_commit(library, "main~1", **WHO)
    assert library.resolve("code").version == 1
    assert library.resolve("math").version == 4


def test_revert_of_a_merge_keeps_the_first_parent(library):
    create_branch(library, "try", "main")
    commit_skill(library, "code", "code two", branch="try")
    commit_skill(library, "math", "four")
    before = digests(library)
    merge_revision(library, "main", "try", **WHO)
    assert digests(library) != before
    revert_commit(library, "main", **WHO)
    assert digests(library) == before


def test_later_changes_are_conflicts(library):
    blobs, head = set(library.blobs), library.head()
    with pytest.raises(MergeConflictError) as caught:
        revert_commit(library, "main~1", **WHO)
    assert caught.value.conflicts == {"math": "changed since"}
    assert caught.value.hint.endswith("skillpack restore main~1~ math")
    assert (set(library.blobs), library.head()) == (blobs, head)
    library.delete("math", **WHO)
    with pytest.raises(MergeConflictError) as caught:
        revert_commit(library, "main~1", **WHO)
    assert caught.value.conflicts == {"math": "deleted since"}


def test_a_dry_run_writes_nothing(library):
    blobs, head = set(library.blobs), library.head()
    for act in (revert_commit, restore_state):
        undone = act(library, "main~3" if act is restore_state else "main", dry_run=True, **WHO)
        assert undone.commit is None
        assert [change.name for change in undone.changes] == ["math"]
    assert (set(library.blobs), library.head()) == (blobs, head)


def test_undelete_a_skill(library):
    library.delete("math", **WHO)
    commit_skill(library, "code", "code two")
    assert [(entry.kind, entry.name) for entry in list_deleted(library)] == [("skill", "math")]
    undelete_skill(library, "math", **WHO)
    assert library.resolve("math").version == 3
    assert library.resolve("code").version == 2
    assert list_deleted(library) == []
    with pytest.raises(StoreError, match="was not deleted"):
        undelete_skill(library, "math", **WHO)
    with pytest.raises(NotFoundError, match="No skill 'prose' was deleted"):
        undelete_skill(library, "prose", **WHO)


@pytest.mark.parametrize("kind", ["heads", "tags"])
def test_undelete_a_branch_or_a_tag(library, kind):
    ref, what = f"{kind}/old", {"heads": "branch", "tags": "tag"}[kind]
    make = create_branch if kind == "heads" else lambda *a: tag_revision(*a, move=False)
    digest = make(library, "old", "main~1")
    with pytest.raises(StoreError, match="was not deleted"):
        undelete_ref(library, ref)
    assert delete_ref(library, ref, dry_run=True) == delete_ref(library, ref) == digest
    assert library.refs.read(ref) is None
    assert [(entry.kind, entry.name, entry.digest) for entry in list_deleted(library)] == [(what, "old", digest)]
    assert undelete_ref(library, ref) == digest
    assert [entry.value.digest for entry in ref_log(library, "old")] == [digest, None, digest]
    with pytest.raises(NotFoundError):
        undelete_ref(library, f"{kind}/never")
    with pytest.raises(NotFoundError) as caught:
        delete_ref(library, f"{kind}/odl")
    assert "Did you mean old?" in caught.value.hint


def test_what_comes_back_is_protected_from_a_collection(library):
    commit_skill(library, "math", "aside", branch="try")
    tip = library.head("try")
    delete_ref(library, "heads/try")
    manifest = library.skill_manifest(tip.skills["math"].digest)
    parts = [tip.digest, tip.skills["math"].digest, manifest.config.digest, *(part.digest for part in manifest.layers)]
    for digest in parts:
        os.utime(library.blobs.path(digest), (1, 1))
    undelete_ref(library, "heads/try")
    assert all(library.blobs.path(digest).stat().st_mtime > 1 for digest in parts)


def test_a_branch_with_missing_parts_stays_deleted(library):
    commit_skill(library, "math", "aside", branch="try")
    tip = library.head("try")
    delete_ref(library, "heads/try")
    library.blobs.path(tip.skills["math"].digest).unlink()
    with pytest.raises(NotFoundError):
        undelete_ref(library, "heads/try")
    assert list(library.branches()) == ["main"]


def test_branches(library):
    digest = create_branch(library, "try", "main~2")
    assert library.branches()["try"] == digest
    assert create_branch(library, "try", "main~2") == digest
    assert len(library.refs.log("heads/try")) == 1
    with pytest.raises(StoreError, match="exists and names commit"):
        create_branch(library, "try", "main")
    commit_skill(library, "math", "aside", branch="try")
    assert only_named_by(library, "heads/try") == 1
    assert only_named_by(library, "heads/main") == 2
    tag_revision(library, "v1", "try", move=False)
    assert only_named_by(library, "heads/try") == 0
    assert only_named_by(library, "heads/none") == 0


def test_tags_move_only_when_asked(library):
    first = tag_revision(library, "v1", "main~1", move=False)
    with pytest.raises(StoreError, match="exists and names commit"):
        tag_revision(library, "v1", "main", move=False)
    assert library.tags() == {"v1": first}
    second = tag_revision(library, "v1", "main", move=True)
    assert library.tags() == {"v1": second}
    assert [entry.value.digest for entry in ref_log(library, "v1")] == [second, first]
