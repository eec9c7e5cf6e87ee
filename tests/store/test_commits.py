from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from skillpack_store import BusyError, CorruptStoreError, Descriptor, NotFoundError, StoreError, digest_of
from skillpack_store.documents import Commit
from tests.store.skills import CONFIG_TYPE, LAYER_TYPE, WHO, commit_skill, put_skill


def test_a_commit_is_an_oci_index_of_skills(repository):
    first = commit_skill(repository, "math", "one")
    skill = put_skill(repository, "two")
    time = datetime(2026, 1, 2, 5, 4, 5, 999, tzinfo=timezone(timedelta(hours=2)))
    commit = repository.commit("main", lambda skills: {**skills, "code": skill}, message="Why", time=time, **WHO)
    assert json.loads(repository.blobs.read(commit.digest, limit=10_000)) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "artifactType": "application/vnd.skillpack.library.v1+json",
        # Entries say nothing of their type, so that skopeo copies the index as it is.
        "manifests": [
            {**replace(entry, artifact_type="").to_json(), "annotations": {"org.skillpack.name": name}}
            for name, entry in (("code", skill), ("math", first.skills["math"]))
        ],
        "annotations": {
            "org.skillpack.parents": first.digest,
            "org.skillpack.author": WHO["author"],
            "org.opencontainers.image.created": "2026-01-02T03:04:05Z",
            "org.skillpack.message": "Why",
            "org.skillpack.tools": '{"skillpack":"0.1.0"}',
        },
    }
    assert commit == repository.read_commit(commit.digest)
    assert (commit.parents, commit.author, commit.message) == ((first.digest,), WHO["author"], "Why")
    assert (commit.time, commit.tools) == ("2026-01-02T03:04:05Z", {"skillpack": "0.1.0"})
    assert list(commit.skills) == ["code", "math"]


def test_the_same_commit_has_the_same_digest():
    skills = {name: Descriptor(digest_of(name.encode()), 1, "a/b") for name in ("b", "a")}
    fields = {
        "parents": [],
        "author": "A",
        "time": "2026-01-02T03:04:05Z",
        "message": "M",
        "tools": {"y": "1", "x": "2"},
    }
    backwards = {"parents": [], "author": "A", "time": fields["time"], "message": "M", "tools": {"x": "2", "y": "1"}}
    assert Commit.build(skills, **fields) == Commit.build(dict(reversed(skills.items())), **backwards)


def test_history_goes_back_by_first_parents(repository):
    commits = [commit_skill(repository, "math", text) for text in ("one", "two", "three")]
    assert [commit.digest for commit in repository.history()] == [commit.digest for commit in reversed(commits)]
    assert repository.head().digest == commits[-1].digest
    assert repository.branches() == {"main": commits[-1].digest}
    assert list(repository.history("other")) == []


def test_branches_are_independent(repository):
    commit_skill(repository, "math", "one")
    commit_skill(repository, "code", "two", branch="try-1")
    assert list(repository.skills()) == ["math"]
    assert list(repository.skills("try-1")) == ["code"]


def test_a_change_of_nothing_is_no_commit(repository):
    first = commit_skill(repository, "math", "one")
    assert commit_skill(repository, "math", "one") == first
    assert len(repository.refs.log("heads/main")) == 1


def test_delete_leaves_the_history(repository):
    commit_skill(repository, "math", "one")
    commit_skill(repository, "code", "two")
    commit = repository.delete("math", **WHO)
    assert list(repository.skills()) == ["code"]
    assert commit.message == "Delete math"
    assert len(list(repository.history())) == 3
    with pytest.raises(NotFoundError) as caught:
        repository.delete("coda", **WHO)
    assert "Did you mean code?" in caught.value.hint


def test_a_commit_names_nothing_that_is_not_there(repository):
    skill = put_skill(repository, "one")
    manifest = repository.skill_manifest(skill.digest)
    missing = Descriptor(digest_of(b"nowhere"), 5, skill.media_type, skill.artifact_type)
    wrong_size = replace(skill, size=skill.size + 1)
    for entry, error in ((missing, NotFoundError), (wrong_size, CorruptStoreError)):
        with pytest.raises(error):
            repository.commit("main", lambda skills, entry=entry: {"math": entry}, message="", **WHO)
    repository.blobs.path(manifest.layers[0].digest).unlink()
    with pytest.raises(NotFoundError, match=manifest.layers[0].digest):
        repository.commit("main", lambda skills: {"math": skill}, message="", **WHO)
    assert repository.head() is None
    assert not (repository.path / "refs" / "heads" / "main").exists()


def test_names_are_checked(repository):
    skill = put_skill(repository, "one")
    for name in ("Math", "../x", "1"):
        with pytest.raises(StoreError, match="cannot be the name of a skill"):
            repository.commit("main", lambda skills, name=name: {name: skill}, message="", **WHO)
    with pytest.raises(StoreError, match="cannot be the name of a branch"):
        commit_skill(repository, "math", "one", branch="a/b")


def test_a_commit_that_loses_the_race_is_made_again_on_the_winner(repository):
    mine, theirs = put_skill(repository, "mine"), put_skill(repository, "theirs")
    calls = []

    def change(skills):
        calls.append(sorted(skills))
        if len(calls) == 1:
            repository.commit("main", lambda now: {**now, "theirs": theirs}, message="First", **WHO)
        return {**skills, "mine": mine}

    commit = repository.commit("main", change, message="Second", **WHO)
    assert calls == [[], ["theirs"]]
    assert list(commit.skills) == ["mine", "theirs"]
    assert [commit.message for commit in repository.history()] == ["Second", "First"]


def test_an_error_of_the_change_is_passed_on_and_changes_nothing(repository):
    def change(skills):
        raise KeyError("mine")

    with pytest.raises(KeyError):
        repository.commit("main", change, message="", **WHO)
    assert repository.branches() == {}


def test_a_time_without_zone_is_refused(repository):
    skill = put_skill(repository, "one")
    with pytest.raises(ValueError, match="time zone"):
        repository.commit("main", lambda _: {"a": skill}, message="", time=datetime(2026, 1, 1), **WHO)  # noqa: DTZ001


def test_a_message_with_bytes_that_are_not_utf8_is_kept_readable(repository):
    skill = put_skill(repository, "one")
    commit = repository.commit("main", lambda _: {"a": skill}, message="caf\udce9", **WHO)
    assert repository.read_commit(commit.digest).message == "caf?"


def test_tags_name_commits(repository):
    first = commit_skill(repository, "math", "one")
    second = commit_skill(repository, "math", "two")
    repository.tag("v1", first)
    repository.tag("v1", first.digest)
    repository.tag("v2", second.digest)
    assert repository.tags() == {"v1": first.digest, "v2": second.digest}
    with pytest.raises(StoreError, match="exists and names"):
        repository.tag("v1", second)
    repository.tag("v1", second, move=True)
    assert repository.tags()["v1"] == second.digest
    assert len(repository.refs.log("tags/v1")) == 2


def test_tags_name_nothing_else(repository):
    skill = put_skill(repository, "one")
    with pytest.raises(NotFoundError):
        repository.tag("v1", digest_of(b"nothing"))
    with pytest.raises(CorruptStoreError):
        repository.tag("v1", skill.digest)
    commit = commit_skill(repository, "math", "one")
    with pytest.raises(StoreError):
        repository.tag("3", commit)
    assert repository.tags() == {}


def test_a_tag_that_somebody_else_set_meanwhile(repository, monkeypatch):
    first, second = (commit_skill(repository, "math", text) for text in ("one", "two"))
    repository.tag("v1", first)
    real = repository.refs.read
    answers = [None]
    monkeypatch.setattr(repository.refs, "read", lambda name: answers.pop() if answers else real(name))
    repository.tag("v1", first)
    answers.append(None)
    with pytest.raises(BusyError):
        repository.tag("v1", second)


def test_a_commit_that_is_damaged_is_reported(repository):
    commit = commit_skill(repository, "math", "one")
    path = repository.blobs.path(commit.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"Add math", b"Add Math"))
    with pytest.raises(CorruptStoreError, match=commit.digest):
        repository.head()


def commit_document(**changes):
    entry = {
        "mediaType": CONFIG_TYPE,
        "digest": digest_of(b""),
        "size": 0,
        "annotations": {"org.skillpack.name": "math"},
    }
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "artifactType": "application/vnd.skillpack.library.v1+json",
        "manifests": [entry],
        "annotations": {},
        **changes,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"schemaVersion": 1},
        {"mediaType": LAYER_TYPE},
        {"artifactType": LAYER_TYPE},
        {"manifests": {}},
        {"manifests": [5]},
        {"manifests": commit_document()["manifests"] * 2},
        {"manifests": [{**commit_document()["manifests"][0], "annotations": {"org.skillpack.name": "../x"}}]},
        {"manifests": [{**commit_document()["manifests"][0], "annotations": {}}]},
        {"annotations": {"org.skillpack.parents": "main"}},
        {"annotations": {"org.skillpack.tools": "[]"}},
        {"annotations": {"org.skillpack.tools": "{"}},
        {"annotations": 5},
    ],
)
def test_commits_are_read_strictly(changes):
    assert Commit.parse(json.dumps(commit_document()).encode()).skills.keys() == {"math"}
    with pytest.raises(ValueError, match=r"."):
        Commit.parse(json.dumps(commit_document(**changes)).encode())


def test_a_library_too_large_for_registries_is_refused():
    skills = {f"skill-{number}": Descriptor(digest_of(b""), 0, "a/b") for number in range(25_000)}
    with pytest.raises(StoreError, match="registries"):
        Commit.build(skills, parents=[], author="", time="", message="", tools={})
