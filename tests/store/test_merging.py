from __future__ import annotations

import pytest

from skillpack_store import (
    MergeConflictError,
    NotFoundError,
    Resolution,
    create_branch,
    merge_revision,
    restore_state,
)
from skillpack_store.merging import best_common_ancestors, is_ancestor
from tests.store.skills import WHO, commit_skill, put_skill


@pytest.fixture
def forked(repository):
    """Two branches that come from math = one, code = one."""
    commit_skill(repository, "code", "code one")
    commit_skill(repository, "math", "one")
    create_branch(repository, "try", "main")
    return repository


def merge(repository, revision="try", branch="main", **options):
    return merge_revision(repository, branch, revision, **{**WHO, **options})


def content(repository, name, branch="main"):
    skill = repository.skills(branch)[name]
    layer = repository.skill_manifest(skill.digest).layers[0]
    return repository.blobs.read(layer.digest, limit=100).decode().removesuffix(" coded")


def test_changes_of_both_sides_come_together(forked):
    commit_skill(forked, "math", "two")
    commit_skill(forked, "code", "code two", branch="try")
    commit_skill(forked, "new", "new", branch="try")
    ours, theirs = forked.head(), forked.head("try")
    done = merge(forked)
    assert (done.kind, done.commit.parents) == ("merge", (ours.digest, theirs.digest))
    assert forked.head() == done.commit
    assert [content(forked, name) for name in ("code", "math", "new")] == ["code two", "two", "new"]
    assert [(change.name, change.kind) for change in done.changes] == [("code", "changed"), ("new", "added")]
    assert done.commit.message == "Merge try into main"
    assert forked.head("try") == theirs
    assert merge(forked).kind == "up to date"
    assert forked.head() == done.commit


def test_deletions_are_merged(forked):
    commit_skill(forked, "math", "two")
    forked.delete("code", "try", **WHO)
    assert [(change.name, change.kind) for change in merge(forked).changes] == [("code", "removed")]
    assert list(forked.skills()) == ["math"]


def test_a_branch_is_moved_forward_without_a_commit(forked):
    commit_skill(forked, "math", "two", branch="try")
    done = merge(forked)
    assert (done.kind, done.commit) == ("fast-forward", forked.head("try"))
    assert forked.head() == forked.head("try")
    assert forked.refs.log("heads/main")[0].digest == done.commit.digest


def test_versions_keep_their_numbers(forked):
    """The other side merged this one: going forward to it would make its versions those of this branch."""
    commit_skill(forked, "math", "on the side", branch="try")
    commit_skill(forked, "math", "two")
    merge(forked, "main", "try", resolution=Resolution("theirs"))
    assert is_ancestor(forked, forked.head().digest, forked.head("try").digest)
    before = [forked.resolve(f"math@{number}").descriptor for number in (1, 2)]
    done = merge(forked)
    assert done.kind == "merge"
    assert [forked.resolve(f"math@{number}").descriptor for number in (1, 2)] == before
    assert forked.resolve("math").version == 2
    assert forked.resolve("math", "try").version == 3


CONFLICTS = {
    "changed in both": (("math", "two"), ("math", "three"), None),
    "added in both": (("new", "a"), ("new", "b"), None),
    "deleted in ours, changed in theirs": (None, ("math", "three"), "main"),
    "changed in ours, deleted in theirs": (("math", "two"), None, "try"),
}


@pytest.fixture(params=CONFLICTS)
def conflict(forked, request):
    ours, theirs, deleting = CONFLICTS[request.param]
    if ours:
        commit_skill(forked, *ours)
    if theirs:
        commit_skill(forked, *theirs, branch="try")
    if deleting:
        forked.delete("math", deleting, **WHO)
    return (ours or theirs)[0], request.param


def test_a_conflict_is_named_and_nothing_is_written(forked, conflict):
    name, kind = conflict
    blobs, head = set(forked.blobs), forked.head()
    with pytest.raises(MergeConflictError) as caught:
        merge(forked)
    assert caught.value.conflicts == {name: kind}
    assert f"{name} ({kind})" in caught.value.message
    assert f"--take {name}=theirs" in caught.value.hint
    assert set(forked.blobs) == blobs
    assert forked.head() == head


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("by_name", [False, True])
def test_a_side_is_taken(forked, conflict, side, by_name):
    name, kind = conflict
    commit_skill(forked, "apart", "untouched", branch="try")
    wanted = forked.skills("main" if side == "ours" else "try").get(name)
    done = merge(forked, resolution=Resolution(None, {name: side}) if by_name else Resolution(side))
    assert forked.skills().get(name) == wanted
    assert done.resolved == {name: kind}
    assert "apart" in forked.skills()


def test_a_skill_is_taken_from_any_commit(forked):
    commit_skill(forked, "math", "two")
    commit_skill(forked, "math", "three", branch="try")
    commit_skill(forked, "math", "four")
    merge(forked, resolution=Resolution(None, {"math": "main~"}))
    assert content(forked, "math") == "two"
    assert forked.resolve("math").version == 2


def test_taking_overrules_what_would_be_merged(forked):
    commit_skill(forked, "math", "two", branch="try")
    commit_skill(forked, "code", "code two", branch="try")
    done = merge(forked, resolution=Resolution(None, {"math": "ours"}))
    assert done.kind == "merge"
    assert (content(forked, "math"), content(forked, "code")) == ("one", "code two")


def test_what_cannot_be_taken_is_refused(forked):
    commit_skill(forked, "math", "two")
    commit_skill(forked, "math", "three", branch="try")
    with pytest.raises(NotFoundError) as caught:
        merge(forked, resolution=Resolution("ours", {"maht": "ours"}))
    assert "Did you mean math?" in caught.value.hint
    with pytest.raises(NotFoundError):
        merge(forked, resolution=Resolution(None, {"math": "nothing"}))


def test_a_dry_run_writes_nothing(forked):
    commit_skill(forked, "math", "two")
    commit_skill(forked, "code", "code two", branch="try")
    before = {path: path.read_bytes() for path in forked.path.rglob("*") if path.is_file()}
    done = merge(forked, dry_run=True)
    assert (done.kind, done.commit, [change.name for change in done.changes]) == ("merge", None, ["code"])
    assert {path: path.read_bytes() for path in forked.path.rglob("*") if path.is_file()} == before


def cross(repository):
    """Both sides merge the other's old head, so that there are two best common ancestors."""
    commit_skill(repository, "math", "left")
    commit_skill(repository, "math", "right", branch="try")
    create_branch(repository, "left", "main")
    create_branch(repository, "right", "try")
    merge(repository, "right", "main", resolution=Resolution("ours"))
    merge(repository, "left", "try", resolution=Resolution("ours"))
    assert len(best_common_ancestors(repository, *(repository.head(name).digest for name in ("main", "try")))) == 2


def test_crossed_histories_that_disagree_conflict(forked):
    cross(forked)
    with pytest.raises(MergeConflictError) as caught:
        merge(forked)
    assert caught.value.conflicts == {"math": "changed in both"}
    # Even if one side never moved: which of the two was older is not known.
    commit_skill(forked, "math", "newer", branch="try")
    with pytest.raises(MergeConflictError):
        merge(forked)


def test_crossed_histories_are_merged_where_they_agree(forked):
    cross(forked)
    commit_skill(forked, "code", "code two", branch="try")
    done = merge(forked, resolution=Resolution("ours"))
    assert len(done.bases) == 2
    assert done.resolved.keys() == {"math"}
    assert (content(forked, "math"), content(forked, "code")) == ("left", "code two")


def test_histories_without_a_common_commit(forked):
    skill = put_skill(forked, "apart")
    same = forked.skills()["math"]
    forked.commit("apart", lambda _: {"apart": skill, "math": same}, message="", **WHO)
    done = merge(forked, "apart")
    assert (done.kind, done.bases, [change.name for change in done.changes]) == ("merge", (), ["apart"])
    assert list(forked.skills()) == ["apart", "code", "math"]


def test_no_such_branch(forked):
    with pytest.raises(NotFoundError, match="no branch 'man'"):
        merge(forked, "try", "man")


def test_a_commit_that_nothing_names_is_looked_through_first(forked):
    """Somebody else's collection may have taken parts of it."""
    commit_skill(forked, "math", "lost", branch="try")
    lost = forked.head("try")
    forked.refs.delete("heads/try", expected=lost.digest)
    forked.blobs.path(forked.skill_manifest(lost.skills["math"].digest).layers[0].digest).unlink()
    head = forked.head()
    for act in (merge, lambda *a: restore_state(*a, **WHO), lambda *a: create_branch(a[0], "again", a[1])):
        with pytest.raises(NotFoundError, match="is not in the store"):
            act(forked, lost.digest)
    assert forked.head() == head
    assert list(forked.branches()) == ["main"]
