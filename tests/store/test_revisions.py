from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack_store import (
    NotFoundError,
    Repository,
    StoreError,
    create_branch,
    delete_ref,
    digest_of,
    find_ref,
    parse_revision,
    resolve_revision,
)
from skillpack_store.revisions import Revision
from tests.store.skills import commit_skill


@pytest.fixture
def line(repository):
    """Digests of four commits on main, newest first."""
    return [commit_skill(repository, "math", text).digest for text in ("one", "two", "three", "four")][::-1]


@pytest.mark.parametrize(
    ("text", "index"),
    [("main", 0), ("heads/main", 0), ("main~", 1), ("main~2", 2), ("main~~~", 3), ("main~1~2", 3), ("main~0", 0)],
)
def test_branches_and_steps_back(repository, line, text, index):
    assert resolve_revision(repository, text) == line[index]


def test_branches_of_remotes(repository, line):
    repository.refs.update("remotes/origin/main", line[2], expected=None)
    repository.refs.update("remotes/origin/main", line[1], expected=line[2])
    for text in ("origin/main", "remotes/origin/main"):
        assert resolve_revision(repository, text) == line[1]
        assert resolve_revision(repository, f"{text}~") == resolve_revision(repository, f"{text}@{{1}}") == line[2]
    with pytest.raises(NotFoundError, match="No branch 'origin/mian' was fetched") as caught:
        resolve_revision(repository, "origin/mian")
    assert "origin/main" in caught.value.hint
    for text in ("origin/", "/main", "a/b/c", "../main", "remotes/origin", "remotes/../main"):
        with pytest.raises(StoreError):
            resolve_revision(repository, text)


def test_a_remote_that_is_called_like_a_kind(repository, line):
    repository.refs.update("remotes/heads/main", line[3], expected=None)
    assert resolve_revision(repository, "heads/main") == line[0]
    assert resolve_revision(repository, "remotes/heads/main") == line[3]


def test_tags_and_digests(repository, line):
    repository.tag("v1", line[2])
    assert resolve_revision(repository, "v1") == resolve_revision(repository, "tags/v1") == line[2]
    assert resolve_revision(repository, "v1~") == line[3]
    for length in (15, 30, 71):
        assert resolve_revision(repository, line[1][:length]) == line[1]
    assert resolve_revision(repository, f"{line[1][:20]}~2") == line[3]


def test_ref_logs(repository, line):
    assert [resolve_revision(repository, f"main@{{{entry}}}") for entry in range(4)] == line
    assert resolve_revision(repository, "main@{1}~2") == line[3]
    with pytest.raises(NotFoundError, match="no entry 4") as caught:
        resolve_revision(repository, "main@{4}")
    assert caught.value.hint == "It has main@{0} to main@{3}."


def test_the_log_of_a_deleted_ref_is_still_there(repository, line):
    create_branch(repository, "try", "main~1")
    delete_ref(repository, "heads/try")
    with pytest.raises(NotFoundError, match="was deleted") as caught:
        resolve_revision(repository, "try@{0}")
    assert caught.value.hint == "Try try@{1}."
    assert resolve_revision(repository, "try@{1}") == line[1]
    with pytest.raises(NotFoundError, match="branch 'try' was deleted") as caught:
        resolve_revision(repository, "try")
    assert caught.value.hint == "skillpack undelete try brings it back."


def test_history_ends(repository, line):
    with pytest.raises(NotFoundError, match="does not reach back to main~4") as caught:
        resolve_revision(repository, "main~4")
    assert caught.value.hint == "Its first commit is main~3."


def test_one_name_for_a_branch_and_a_tag(repository, line):
    repository.tag("main", line[0])
    assert resolve_revision(repository, "main") == line[0]
    repository.tag("main", line[1], move=True)
    with pytest.raises(StoreError, match="is a branch and a tag") as caught:
        resolve_revision(repository, "main")
    assert "tags/main" in caught.value.hint
    assert resolve_revision(repository, "tags/main") == line[1]
    assert resolve_revision(repository, "heads/main") == line[0]


@pytest.mark.parametrize(
    ("text", "hint"),
    [("man", "Did you mean main?"), ("heads/man", "Did you mean main?"), ("tags/relase", "Did you mean release?")],
)
def test_unknown_names_are_answered_with_known_ones(repository, line, text, hint):
    repository.tag("release", line[0])
    with pytest.raises(NotFoundError) as caught:
        resolve_revision(repository, text)
    assert hint in caught.value.hint


def test_a_digest_that_is_no_commit(repository, line):
    skill = repository.skills()["math"].digest
    for text in (skill[:20], "sha256:00000000", "sha256:" + "0" * 64):
        with pytest.raises(NotFoundError):
            resolve_revision(repository, text)
    with pytest.raises(StoreError):
        resolve_revision(repository, skill)


def test_a_prefix_of_two_commits_is_refused(repository, line, monkeypatch):
    monkeypatch.setattr(type(repository.blobs), "__iter__", lambda self: iter([line[0][:15] + "f" * 56, line[0]]))
    same = {line[0][:15] + "f" * 56: line[0]}
    read = Repository.read_commit
    monkeypatch.setattr(Repository, "read_commit", lambda self, digest: read(self, same.get(digest, digest)))
    with pytest.raises(StoreError, match="2 commits have a digest that starts with"):
        resolve_revision(repository, line[0][:15])


@pytest.mark.parametrize(
    "text",
    ["", "~", "@{1}", "main@{x}", "main@{-1}", "main^", "main~x", "main..try", "refs/heads/main", "HEAD", "12", "../x",
     "sha256:12345", "sha256:ABCDEF01", "heads/", "main@{1}@{2}", "main~2@{1}", "sha256:0123abcd@{1}", "a" * 101],
)  # fmt: skip
def test_what_is_no_revision_is_refused(repository, text):
    with pytest.raises(StoreError) as caught:
        resolve_revision(repository, text)
    assert caught.value.hint
    assert not isinstance(caught.value, NotFoundError)


@given(st.text(max_size=30))
def test_anything_is_read_or_refused(text):
    hint = "none"
    try:
        assert isinstance(parse_revision(text), Revision)
    except StoreError as error:
        hint = error.hint
    assert hint


@given(
    st.sampled_from(["main", "tags/v1.0", "heads/x-y", digest_of(b"")[:20]]),
    st.integers(0, 999999),
    st.lists(st.integers(0, 99), max_size=3),
)
def test_what_is_written_is_what_is_read(base, entry, steps):
    back = "".join(f"~{step}" for step in steps)
    assert parse_revision(base + back) == Revision(base, None, sum(steps))
    if not base.startswith("sha256"):
        assert parse_revision(f"{base}@{{{entry}}}{back}") == Revision(base, entry, sum(steps))


def test_full_names(repository, line):
    assert find_ref(repository, "main") == "heads/main"
    repository.tag("v1", line[0])
    assert find_ref(repository, "v1") == find_ref(repository, "tags/v1") == "tags/v1"
