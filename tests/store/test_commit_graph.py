"""The graph of commits says what the commits say, whatever becomes of its files."""

from __future__ import annotations

import json
import os

import pytest

from skillpack_store import Repository, create_branch, merge_revision, number_versions, sorted_records
from skillpack_store.commit_graph import record_of
from tests.store.skills import WHO, commit_skill


@pytest.fixture
def library(repository):
    """A history with a merge, a deletion, and a version that comes back."""
    commit_skill(repository, "math", "one")
    create_branch(repository, "try", "main")
    commit_skill(repository, "code", "elsewhere", branch="try")
    commit_skill(repository, "math", "two")
    merge_revision(repository, "main", "try", **WHO)
    repository.delete("math", **WHO)
    commit_skill(repository, "math", "one")
    return repository


@pytest.fixture
def reads(monkeypatch):
    """Digests of the commits whose documents are read."""
    found = []
    read = Repository.read_commit
    monkeypatch.setattr(Repository, "read_commit", lambda self, digest: found.append(digest) or read(self, digest))
    return found


def cache(repository):
    return [path for path in (repository.path / "cache").rglob("*") if path.is_file()]


def expected(repository):
    """The records, from the documents alone."""
    commits = {digest: repository.read_commit(digest) for digest in repository.blobs if is_commit(repository, digest)}
    return {
        digest: record_of(commit, [commits[parent] for parent in commit.parents]) for digest, commit in commits.items()
    }


def is_commit(repository, digest):
    return b"vnd.skillpack.library" in repository.blobs.read(digest, limit=1 << 20)


def test_every_commit_leaves_a_record(library, reads):
    assert len(cache(library)) == 6
    found = Repository.open(library.path)
    records = found.graph.ancestors(library.branches()["main"])
    assert reads == []
    assert records == expected(library)


def test_changes(library):
    records = list(library.graph.first_parents(library.branches()["main"]))
    one, two = (library.resolve(f"math@{number}").descriptor.digest for number in (1, 2))
    code = library.resolve("code").descriptor.digest
    assert [record.changes[0] for record in records] == [
        {"math": (None, one)},
        {"math": (two, None)},
        {"code": (None, code)},
        {"math": (one, two)},
        {"math": (None, one)},
    ]
    assert records[2].changes[1] == {"math": (one, two)}


def test_versions_are_numbered_along_first_parents(library):
    numbered = number_versions(library, library.branches()["main"])
    assert [version.number for version in numbered["math"].values()] == [1, 2]
    assert [version.commit.message for version in numbered["math"].values()] == ["Add math", "Add math"]
    assert next(iter(numbered["code"].values())).commit.message == "Merge try into main"
    assert number_versions(library, library.branches()["main"], ["code"]).keys() == {"code"}
    assert number_versions(library, None) == {}


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "other version", "empty", "not text", "a folder"])
def test_damaged_records_are_computed_again(library, damage, reads):
    true = expected(library)
    reads.clear()
    for path in cache(library):
        data = path.read_bytes()
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage != "gone":
            changed = {
                "cut": data[: len(data) // 2],
                "flipped": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
                "other version": data.replace(b"history 1", b"history 9"),
                "empty": b"",
                "not text": os.urandom(200),
            }
            path.write_bytes(changed[damage])
    found = Repository.open(library.path)
    assert found.graph.ancestors(library.branches()["main"]) == true
    # Each document was read once.
    assert sorted(reads) == sorted(true)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        "1",
        "[" * 100000,
        '["x",[],"","","",[{}]]',
        '["sha256:DIGITS",[],1,"","",[{}]]',
        '["sha256:DIGITS",["../x"],"","","",[{}]]',
        '["sha256:DIGITS",[],"","","",[{"a":"b"}]]',
        '["sha256:DIGITS",[],"","","",[{"a":["../x",null]}]]',
        '["sha256:DIGITS",[],"","","",[{"a":[null,null]}]]',
        '["sha256:DIGITS",[],"","","",[{"a":[null]}]]',
        '["sha256:DIGITS",[],"","","",[]]',
        '["sha256:DIGITS",[],"","","",[[]]]',
    ],
)
def test_nonsense_with_the_right_digest_is_passed_over(library, content):
    import hashlib

    data = content.replace("DIGITS", "0" * 64).encode() + b"\n"
    head = f"skillpack history 1 {hashlib.sha256(data).hexdigest()}\n".encode()
    (library.path / "cache" / "history").write_bytes(head + data)
    assert Repository.open(library.path).graph.ancestors(library.branches()["main"]) == expected(library)


def test_records_are_gathered_when_there_are_many(library, reads, monkeypatch):
    monkeypatch.setattr("skillpack_store.commit_graph._GATHER", 4)
    found = Repository.open(library.path)
    list(sorted_records(found, library.branches()["main"]))
    assert [path.name for path in cache(library)] == ["history"]
    commit_skill(Repository.open(library.path), "math", "three")
    assert len(cache(library)) == 2
    reads.clear()
    again = Repository.open(library.path)
    assert len(again.graph.ancestors(library.branches()["main"])) == 7
    assert reads == []
    assert library.resolve("math").version == 3
    writer = Repository.open(library.path)
    for text in ("four", "five", "six", "seven"):
        commit_skill(writer, "math", text)
    assert [path.name for path in cache(library)] == ["history"]


def test_a_history_without_records_is_read_once_and_kept(library, reads, monkeypatch):
    monkeypatch.setattr("skillpack_store.commit_graph._SAVE", 2)
    library.graph.forget()
    assert not (library.path / "cache").exists()
    reads.clear()
    found = Repository.open(library.path)
    assert found.resolve("math@2").version == 2
    # All six once, and what was resolved to be certain of it.
    assert len(reads) <= 8
    assert (library.path / "cache" / "history").exists()
    reads.clear()
    found = Repository.open(library.path)
    assert len(list(found.graph.first_parents(library.branches()["main"]))) == 5
    # They were saved two at a time, and the fifth is the first commit.
    assert len(reads) == 1
    reads.clear()
    # The commit that was merged is not on that line.
    assert len(list(sorted_records(found, library.branches()["main"]))) == 6
    assert len(reads) == 1


def test_a_record_that_lies_is_found_out(library):
    """Somebody wrote records that fit their digest and not the commits."""
    import hashlib

    (library.path / "cache" / "history").write_bytes(b"")
    for path in (library.path / "cache" / "recent").iterdir():
        line = json.loads(path.read_bytes().partition(b"\n")[2])
        line[5][0] = {
            name: [digest and "sha256:" + digest[-2:] + digest[9:] for digest in pair]
            for name, pair in line[5][0].items()
        }
        data = json.dumps(line).encode() + b"\n"
        path.write_bytes(f"skillpack history 1 {hashlib.sha256(data).hexdigest()}\n".encode() + data)
    for address, number in (("math", 1), ("math@2", 2)):
        found = Repository.open(library.path)
        resolved = found.resolve(address)
        assert resolved.version == number
        assert found.skill_manifest(resolved.descriptor.digest)
    assert Repository.open(library.path).graph.ancestors(library.branches()["main"]) == expected(library)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_may_not_be_written(library):
    library.graph.forget()
    library.path.chmod(0o555)
    try:
        assert Repository.open(library.path).resolve("math@2").version == 2
    finally:
        library.path.chmod(0o755)


def test_where_the_cache_cannot_be_written_everything_works(library):
    library.graph.forget()
    (library.path / "cache").write_bytes(b"in the way")
    found = Repository.open(library.path)
    commit_skill(found, "math", "four")
    assert found.resolve("math").version == 3
    found.graph.settle()
    assert Repository.open(library.path).resolve("math@1").version == 1
