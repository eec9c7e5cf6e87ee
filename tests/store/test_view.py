from __future__ import annotations

import json

import pytest

from skillpack_store import Repository, view
from tests.store.skills import commit_skill, verify_everything

FOREIGN = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": 5}


def entries(repository):
    return json.loads((repository.path / "index.json").read_text())["manifests"]


def names(repository):
    return [entry.get("annotations", {}).get("org.opencontainers.image.ref.name") for entry in entries(repository)]


def test_index_shows_branches_and_tags(repository):
    commit = commit_skill(repository, "math", "one")
    repository.tag("v1", commit)
    assert names(repository) == ["main", "v1"]
    assert {entry["digest"] for entry in entries(repository)} == {commit.digest}
    assert {entry["size"] for entry in entries(repository)} == {repository.blobs.size(commit.digest)}
    repository.tag("main", commit)
    assert names(repository) == ["heads/main", "main", "v1"]


def test_entries_of_other_tools_are_kept(repository):
    path = repository.path / "index.json"
    index = json.loads(path.read_text())
    foreign = [FOREIGN, {**FOREIGN, "annotations": {"org.opencontainers.image.ref.name": "theirs"}}]
    path.write_text(json.dumps({**index, "manifests": foreign, "annotations": {"a": "b"}}))
    commit_skill(repository, "math", "one")
    assert entries(repository)[1:] == foreign
    commit_skill(repository, "math", "two")
    assert entries(repository)[1:] == foreign
    assert json.loads(path.read_text())["annotations"] == {"a": "b"}


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"manifests":5}', '{"manifests":[]}'])
def test_a_missing_stale_or_damaged_index_loses_nothing(repository, content):
    first = commit_skill(repository, "math", "one")
    repository.tag("v1", first)
    path = repository.path / "index.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    again = Repository.open(repository.path)
    assert again.head() == first
    second = commit_skill(again, "code", "two")
    assert names(again) == ["main", "v1"]
    assert entries(again)[0]["digest"] == second.digest


def test_an_index_that_cannot_be_written_does_not_undo_a_commit(repository):
    path = repository.path / "index.json"
    path.unlink()
    path.mkdir()
    commit = commit_skill(repository, "math", "one")
    assert repository.head() == commit
    path.rmdir()
    commit_skill(repository, "math", "two")
    assert names(repository) == ["main"]
    verify_everything(repository)


def test_a_damaged_ref_does_not_undo_a_commit_of_another(repository):
    commit = commit_skill(repository, "math", "one")
    repository.tag("v1", commit)
    (repository.path / "refs" / "tags" / "v1" / "1").write_text("")
    second = commit_skill(repository, "math", "two")
    assert repository.head() == second


def test_whoever_writes_last_shows_what_others_did_meanwhile(repository, monkeypatch):
    commit = commit_skill(repository, "math", "one")
    others = ["late", "later"]
    real = view._write

    def write(path, entries):
        if others:
            repository.refs.update(f"tags/{others.pop()}", commit.digest, expected=None)
        real(path, entries)

    monkeypatch.setattr(view, "_write", write)
    repository.tag("v1", commit)
    assert names(repository) == ["main", "late", "later", "v1"]


def test_an_index_that_is_right_is_not_rewritten(repository):
    commit = commit_skill(repository, "math", "one")
    before = (repository.path / "index.json").stat()
    assert commit_skill(repository, "math", "one") == commit
    assert (repository.path / "index.json").stat().st_ino == before.st_ino


def test_an_index_is_read_as_the_refs_that_it_shows(repository):
    commit = commit_skill(repository, "math", "one")
    repository.tag("main", commit)
    repository.attach(commit.skills["math"], "a/card", [(b"x", "text/plain", "x")])
    repository.refs.update("remotes/origin/main", commit.digest, expected=None)
    view.refresh_index(repository)
    shown = view.read_index((repository.path / "index.json").read_bytes())
    tag = commit.skills["math"].digest.replace(":", "-")
    assert shown.keys() == {"heads/main", "tags/main", f"referrers/{tag}"}
    assert shown["heads/main"].digest == shown["tags/main"].digest == commit.digest
    assert shown["heads/main"].size == repository.blobs.size(commit.digest)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"manifests":1}'])
def test_what_is_no_index(content):
    with pytest.raises(ValueError, match=r"."):
        view.read_index(content)
