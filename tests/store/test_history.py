from __future__ import annotations

from datetime import datetime, timezone

import pytest

from skillpack_store import (
    NotFoundError,
    Repository,
    Resolution,
    create_branch,
    merge_revision,
    ref_log,
    skill_records,
    sorted_records,
)
from tests.store.skills import WHO, commit_skill, put_skill


def commit_at(repository, branch, text, minute):
    skill = put_skill(repository, text)
    time = datetime(2026, 1, 1, 0, minute, tzinfo=timezone.utc)
    return repository.commit(branch, lambda skills: {**skills, "math": skill}, message=text, time=time, **WHO)


def messages(repository, branch="main"):
    return [record.message for record in sorted_records(repository, repository.branches()[branch])]


def test_newest_first_over_all_parents(repository):
    commit_at(repository, "main", "root", 0)
    create_branch(repository, "try", "main")
    for branch, text, minute in (("main", "a", 1), ("try", "b", 2), ("main", "c", 3), ("try", "d", 4)):
        commit_at(repository, branch, text, minute)
    merge_revision(repository, "main", "try", resolution=Resolution("ours"), message="merge", **WHO)
    assert messages(repository) == ["merge", "d", "c", "b", "a", "root"]


def test_commits_come_before_their_parents_whatever_the_clocks_say(repository):
    for minute in (5, 1, 9, 0):
        commit_at(repository, "main", f"at {minute}", minute)
    assert messages(repository) == ["at 0", "at 9", "at 1", "at 5"]


def test_lines_of_one_time_stay_together(repository):
    commit_at(repository, "main", "root", 0)
    create_branch(repository, "try", "main")
    for text in ("a", "b", "c"):
        commit_at(repository, "main", text, 0)
        commit_at(repository, "try", f"try {text}", 0)
    merge_revision(repository, "main", "try", resolution=Resolution("ours"), message="merge", **WHO)
    assert messages(repository) == ["merge", "c", "b", "a", "try c", "try b", "try a", "root"]


def test_commits_of_one_skill(repository):
    commit_skill(repository, "math", "one")
    commit_skill(repository, "code", "one")
    create_branch(repository, "try", "main")
    commit_skill(repository, "math", "two", branch="try")
    commit_skill(repository, "code", "two")
    merge_revision(repository, "main", "try", message="merge", **WHO)
    repository.delete("math", **WHO)
    records = list(sorted_records(repository, repository.branches()["main"]))
    assert [record.message for record in skill_records(records, "math")] == ["Delete math", "Add math", "Add math"]
    assert list(skill_records(records, "prose")) == []


def test_a_merge_that_made_something_else_of_a_skill_is_shown(repository):
    commit_skill(repository, "math", "one")
    create_branch(repository, "try", "main")
    commit_skill(repository, "math", "two")
    commit_skill(repository, "math", "three", branch="try")
    merge_revision(repository, "main", "try", resolution=Resolution(None, {"math": "main~1"}), message="merge", **WHO)
    records = sorted_records(repository, repository.branches()["main"])
    assert next(skill_records(records, "math")).message == "merge"


def test_ref_logs(repository):
    first, second = (commit_skill(repository, "math", text) for text in ("one", "two"))
    entries = ref_log(repository, "main")
    assert [(entry.position, entry.value.number, entry.value.digest) for entry in entries] == [
        (0, 2, second.digest),
        (1, 1, first.digest),
    ]
    assert [entry.message for entry in entries] == ["Add math", "Add math"]
    assert len(ref_log(repository, "main", 1)) == 1
    with pytest.raises(NotFoundError):
        ref_log(repository, "man")


def test_a_ref_log_may_name_what_is_gone(repository):
    first = commit_skill(repository, "math", "one")
    commit_skill(repository, "math", "two")
    repository.blobs.path(first.digest).unlink()
    repository.graph.forget()
    assert [entry.message for entry in ref_log(Repository.open(repository.path), "main")][1] == ""
