"""Frozen stores, damaged in one place at a time: one finding each, of the right kind, with its consequences."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from skillpack_store import NoStoreError, Repository, StoreError
from skillpack_store.collecting import collect_garbage
from skillpack_store.findings import Problem
from skillpack_store.fsck import Subset, check_store
from tests import crash
from tests.store.skills import commit_skill, verify_everything

FIXTURES = Path(__file__).parent / "fixtures"
V1 = FIXTURES / "v1"
FILES = sorted(path.relative_to(V1).as_posix() for path in V1.rglob("*") if path.is_file())
SHARED = next(path for path in FILES if path.startswith("blobs/") and (V1 / path).read_bytes() == b"shared by all")
UNNAMED = [path for path in FILES if (V1 / path).read_bytes() in {b"nor this", b"nothing names this"}]


@pytest.fixture
def store(tmp_path):
    """A copy of the frozen store that can be written."""
    folder = shutil.copytree(V1, tmp_path / "store")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def problems(folder, level="full", **options):
    return [(finding.problem, finding.path) for finding in check_store(folder, level=level, **options).findings]


@pytest.mark.parametrize("level", ["quick", "sizes", "full"])
@pytest.mark.parametrize("folder", sorted(path for path in FIXTURES.iterdir() if (path / "oci-layout").exists()))
def test_a_frozen_store_is_sound_and_can_be_used(folder, level, tmp_path):
    report = check_store(folder, level=level)
    assert report.findings == []
    assert (report.refs, report.commits, report.skills, report.blobs) == (5, 3, 2, 19)
    assert report.bytes == sum(path.stat().st_size for path in (folder / "blobs" / "sha256").iterdir())
    store = Repository.open(shutil.copytree(folder, tmp_path / "store"))
    verify_everything(store)
    commit_skill(store, "more", "more")
    collect_garbage(store)
    assert check_store(store, level="full").findings == []


def kinds_of(path):
    """What damage to the content of a file may be found as."""
    if path == "oci-layout":
        return {Problem.LAYOUT_DAMAGED}
    if path == "index.json":
        # A wrong byte in the entry of another program may make it name something else.
        return {Problem.INDEX_DAMAGED, Problem.INDEX_STALE, Problem.BLOB_MISSING, Problem.SIZE_MISMATCH}
    return {Problem.REF_ENTRY_DAMAGED} if path.startswith("refs/") else {Problem.BLOB_DAMAGED}


def only_finding(folder, path, kinds):
    found = check_store(folder, level="full").findings
    assert len(found) == 1, (path, found)
    assert found[0].problem in kinds, (path, found)
    if path != "index.json":
        assert found[0].path == path
    return found[0]


@pytest.mark.parametrize("path", [path for path in FILES if (V1 / path).stat().st_size])
def test_one_byte(store, path):
    file = store / path
    data = file.read_bytes()
    step = 1 if len(data) <= 32 else 5 if path.startswith("refs/") else 23 if path != "index.json" else 9
    for position in range(0, len(data), step):
        damaged = bytearray(data)
        damaged[position] ^= 1 + position % 255
        file.write_bytes(damaged)
        only_finding(store, path, kinds_of(path))
    file.write_bytes(data)
    assert problems(store) == []


@pytest.mark.parametrize("path", [path for path in FILES if (V1 / path).stat().st_size])
@pytest.mark.parametrize("length", ["nothing", "half", "all but one", "one more"])
def test_another_length(store, path, length):
    data = (store / path).read_bytes()
    cut = {"nothing": b"", "half": data[: len(data) // 2], "all but one": data[:-1], "one more": data + b"\0"}[length]
    (store / path).write_bytes(cut)
    only_finding(store, path, kinds_of(path))


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_is_gone(store, path):
    (store / path).unlink()
    if path in UNNAMED:
        # Nothing says that they were there.
        assert problems(store) == []
        return
    found = check_store(store, level="full").findings
    if path == "index.json":
        expected = [(Problem.INDEX_STALE, path)]
    elif path == "oci-layout":
        expected = [(Problem.LAYOUT_DAMAGED, path)]
    elif path.startswith("refs/"):
        expected = [(Problem.REF_ENTRY_MISSING, str(Path(path).parent))]
    else:
        expected = [(Problem.BLOB_MISSING, path)]
    assert [(finding.problem, finding.path) for finding in found] == expected


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("what", ["folder", "link", "dangling link", "pipe"])
def test_something_else_under_the_name_of_a_file(store, path, what, tmp_path):
    """A link to the very same content included."""
    file = store / path
    shutil.copy(file, tmp_path / "elsewhere")
    file.unlink()
    if what == "folder":
        file.mkdir()
    elif what == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(tmp_path / ("elsewhere" if what == "link" else "nowhere"))
    kinds = kinds_of(path) if path.startswith("refs/") or "/" not in path else {Problem.BLOB_NOT_A_FILE}
    only_finding(store, path, kinds)


@pytest.mark.parametrize("folder", ["blobs/sha256", "refs/heads", "refs/tags", "refs/referrers", "refs/heads/main"])
@pytest.mark.parametrize("what", ["missing", "file", "link"])
def test_a_folder_that_is_none(store, folder, what, tmp_path):
    (store / folder).rename(tmp_path / "elsewhere")
    if what == "file":
        (store / folder).touch()
    elif what == "link":
        (store / folder).symlink_to(tmp_path / "elsewhere")
    kind = Problem.REF_ENTRY_MISSING if (folder, what) == ("refs/heads/main", "missing") else Problem.FOLDER_DAMAGED
    assert problems(store) == [(kind, folder)]


def test_consequences_are_nested(store):
    path = store / SHARED
    path.write_bytes(b"Shared by all")
    (finding,) = check_store(store, level="full").findings
    repository = Repository.open(V1)
    skills = {f"math@{commit.skills['math'].digest}" for commit in repository.history()}
    commits = {commit.digest for commit in repository.history()} | {repository.head("side").digest}
    assert set(finding.affected.skills) == {name for name in skills if name in finding.affected.skills}
    assert len(finding.affected.skills) == 2
    assert set(finding.affected.commits) == commits
    assert finding.affected.commit_count == 3
    assert finding.affected.refs == ("heads/main", "heads/side", "tags/v1")


def test_consequences_of_an_attachment_and_of_an_old_commit(store):
    repository = Repository.open(V1)
    subject = repository.skills()["math"].digest
    (card,) = repository.referrers(subject)
    file = repository.attachment(card.digest).files[0].digest
    (store / "blobs" / "sha256" / file[7:]).unlink()
    first = repository.head().parents[0]
    (store / "blobs" / "sha256" / first[7:]).write_bytes(b"{}")
    found = {finding.problem: finding for finding in check_store(store, level="quick").findings}
    assert found[Problem.BLOB_MISSING].affected.attachments == (card.digest,)
    assert found[Problem.BLOB_MISSING].affected.refs == ()
    assert found[Problem.BLOB_DAMAGED].affected.commits == (first,)
    assert found[Problem.BLOB_DAMAGED].affected.refs == ("heads/main", "tags/v1")


def test_a_damaged_ref_entry_affects_its_ref(store):
    (store / "refs/heads/main/2").write_bytes(b"")
    (finding,) = check_store(store).findings
    assert finding.affected.refs == ("heads/main",)


def test_what_each_level_sees(store):
    layer = store / SHARED
    layer.write_bytes(b"x")
    assert problems(store, "quick") == []
    assert problems(store, "sizes") == problems(store, "full") == [(Problem.BLOB_DAMAGED, SHARED)]
    layer.write_bytes(b"Shared by all")
    assert problems(store, "sizes") == []
    assert problems(store, "full") == [(Problem.BLOB_DAMAGED, SHARED)]
    layer.unlink()
    assert problems(store, "quick") == [(Problem.BLOB_MISSING, SHARED)]


def test_subsets_make_a_whole(store):
    for path in (store / "blobs" / "sha256").iterdir():
        if path.read_bytes()[:1] != b"{":
            path.write_bytes(path.read_bytes() + b"!")
    everything = set(problems(store, "full"))
    parts = [set(problems(store, "full", subset=Subset(part, 3))) for part in (1, 2, 3)]
    named = set(problems(store, "sizes"))
    assert set.union(*parts) == everything
    assert all(part - named for part in [everything])
    assert all(part <= everything for part in parts)
    hashed = [check_store(V1, level="full", subset=Subset(part, 3)).hashed for part in (1, 2, 3)]
    assert sum(hashed) == check_store(V1, level="full").hashed > max(hashed) > 0


@pytest.mark.parametrize(("part", "parts"), [(0, 5), (6, 5), (1, 0), (1, 10**7)])
def test_parts_that_are_none(part, parts):
    with pytest.raises(StoreError, match="no part of a whole"):
        Subset(part, parts)


def test_a_size_that_a_document_has_wrong(repository):
    from dataclasses import replace

    commit = commit_skill(repository, "math", "one")
    wrong = {"math": replace(commit.skills["math"], size=commit.skills["math"].size + 1)}
    from skillpack_store.documents import Commit

    data = Commit.build(wrong, parents=[commit.digest], author="A", time="", message="", tools={})
    repository.refs.update("heads/main", repository.blobs.put([data]).digest, expected=commit.digest)
    errors = check_store(repository, level="full").errors
    assert [finding.problem for finding in errors] == [Problem.SIZE_MISMATCH]
    assert errors[0].digest == wrong["math"].digest


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"a":1,"a":2}', b"no json"])
def test_a_blob_that_is_not_what_names_it_says(repository, content):
    commit_skill(repository, "math", "one")
    digest = repository.blobs.put([content]).digest
    repository.refs.update("tags/v1", digest, expected=None)
    errors = check_store(repository).errors
    assert [(finding.problem, finding.digest) for finding in errors] == [(Problem.DOCUMENT_MALFORMED, digest)]
    assert errors[0].affected.refs == ("tags/v1",)


def test_notes_are_no_errors(store):
    (store / "README").touch()
    (store / "blobs" / "sha256" / "x").touch()
    (store / "blobs" / "sha256" / ".blob.0011223344556677.tmp").touch()
    (store / "refs" / "tags" / "not ok").mkdir()
    (store / "refs" / "tags" / "v2").mkdir()
    (store / "index.json").write_text('{"manifests":[]}')
    layer = store / SHARED
    (store / "trash" / "20260101T000000Z-00000000").mkdir()
    layer.rename(store / "trash" / "20260101T000000Z-00000000" / layer.name)
    report = check_store(store, level="full")
    assert report.errors == []
    assert {finding.problem for finding in report.notes} == {
        Problem.STRAY_FILE,
        Problem.LEFTOVER_FILE,
        Problem.REF_EMPTY,
        Problem.INDEX_STALE,
        Problem.BLOB_IN_TRASH,
    }


def test_the_index_may_be_older_than_the_refs(repository):
    commit_skill(repository, "math", "one")
    old = (repository.path / "index.json").read_bytes()
    commit_skill(repository, "math", "two")
    (repository.path / "index.json").write_bytes(old)
    assert problems(repository) == [(Problem.INDEX_STALE, "index.json")]


def test_there_is_no_store(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NoStoreError):
            check_store(folder)


def test_progress_is_told_in_bytes():
    told = []
    report = check_store(V1, level="full", progress=lambda *step: told.append(step))
    assert told[-1] == (report.hashed, report.hashed, "hashing blobs")
    assert report.hashed > report.bytes  # the trash too


def test_quarantine_moves_what_is_damaged_and_nothing_else(store):
    path = store / SHARED
    path.write_bytes(b"Shared by all")
    before = {name: (store / name).read_bytes() for name in FILES if name != SHARED}
    (finding,) = check_store(store, level="full", quarantine=True).findings
    assert finding.problem is Problem.BLOB_DAMAGED
    assert (store / finding.quarantined).read_bytes() == b"Shared by all"
    assert not path.exists()
    assert {name: (store / name).read_bytes() for name in before} == before
    # From now on it is missing instead of wrong, and the same content fills its place.
    assert problems(store) == [(Problem.BLOB_MISSING, SHARED)]
    Repository.open(store).blobs.put([b"shared by all"])
    assert problems(store) == []


def test_quarantine_gives_back_what_was_repaired_meanwhile(store, monkeypatch):
    from skillpack_store import fsck

    path = store / SHARED
    path.write_bytes(b"Shared by all")
    real = fsck._set_aside

    def repaired_just_before(repository, digest):
        repository.blobs.put([b"shared by all"])
        return real(repository, digest)

    monkeypatch.setattr(fsck, "_set_aside", repaired_just_before)
    (finding,) = check_store(store, level="full", quarantine=True).findings
    assert finding.quarantined == ""
    assert problems(store) == []
    assert list((store / "quarantine").iterdir()) == []


def test_a_crash_in_a_quarantine(store):
    path = store / SHARED
    path.write_bytes(b"Shared by all")
    with crash.record(store) as recording:
        check_store(store, level="full", quarantine=True)

    def check(folder):
        errors = check_store(folder, level="full").errors
        assert [
            (finding.problem in {Problem.BLOB_DAMAGED, Problem.BLOB_MISSING}, finding.path) for finding in errors
        ] == [(True, SHARED)]
        Repository.open(folder).blobs.put([b"shared by all"])
        assert check_store(folder, level="full").errors == []

    assert crash.check_every_crash(recording, check) > 2


def test_nothing_is_changed_without_being_asked(store):
    (store / SHARED).write_bytes(b"Shared by all")
    (store / "index.json").unlink()
    before = {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in store.rglob("*")}
    check_store(store, level="full")
    assert {str(path): (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in store.rglob("*")} == before


def test_findings_can_be_told_apart_by_programs():
    assert [problem.value for problem in Problem] == [
        "layout-damaged",
        "folder-damaged",
        "ref-entry-damaged",
        "ref-entry-missing",
        "index-damaged",
        "blob-damaged",
        "blob-missing",
        "blob-not-a-file",
        "file-unreadable",
        "size-mismatch",
        "document-malformed",
        "index-stale",
        "blob-in-trash",
        "ref-empty",
        "stray-file",
        "leftover-file",
    ]
    assert json.dumps(Problem.BLOB_DAMAGED) == '"blob-damaged"'
