"""A crash at any point leaves the old state or the new one, whole, and the next write works."""

from __future__ import annotations

import shutil

import pytest

from skillpack_store import Repository, StoreError, digest_of, disk, export_archive, import_archive
from tests import crash
from tests.store.skills import commit_skill, put_skill, verify_everything

CARD = "application/vnd.skillpack.card.v1"


@pytest.fixture
def library(repository):
    commit = commit_skill(repository, "math", "one")
    repository.tag("v1", commit)
    repository.attach(commit.skills["math"], CARD, [(b"old", "text/plain", "old")])
    return repository


def state(repository):
    """Everything that the refs say."""
    attached = {
        skill.digest: [entry.digest for entry in repository.referrers(skill.digest)]
        for skill in repository.skills().values()
    }
    return [repository.branches(), repository.tags(), attached]


ACTIONS = {
    "commit": lambda repository: commit_skill(repository, "code", "two"),
    "first commit of a branch": lambda repository: commit_skill(repository, "code", "two", branch="new"),
    "tag": lambda repository: repository.tag("v2", repository.head()),
    "moved tag": lambda repository: repository.tag("v1", commit_skill(repository, "math", "x", branch="b"), move=True),
    "attach": lambda repository: repository.attach(repository.skills()["math"], CARD, [(b"new", "text/plain", "n")]),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_crash_leaves_the_old_state_or_the_new_one(library, action):
    states = [state(library)]
    with crash.record(library.path) as recording:
        ACTIONS[action](library)
        states.append(state(library))
    if action == "moved tag":
        states.insert(1, [library.branches(), states[0][1], states[0][2]])
    reached = set()

    def check(folder):
        found = Repository.open(folder)
        reached.add(states.index(state(found)))
        verify_everything(found)
        commit_skill(found, "next", "after the crash")
        assert "next" in found.skills()
        verify_everything(found)

    assert crash.check_every_crash(recording, check) > len(recording) // 3
    assert reached == set(range(len(states)))
    crash.rebuild(recording, len(recording), "lost", library.path.parent / "finished")
    assert state(Repository.open(library.path.parent / "finished")) == states[-1]


def test_what_others_did_not_sync_yet_is_synced_before_it_is_built_on(library):
    """Another process made the ref's folder, or renamed a blob into place, and was stopped right there."""
    digest = library.head().digest
    with crash.record(library.path) as recording:
        disk.mkdir(library.refs.folder / "tags" / "v2")
        disk.write_new(library.blobs.path(digest_of(b"shared")), [b"shared"])
        library.blobs.put([b"shared"])
        library.refs.update("tags/v2", digest, expected=None)
    crash.rebuild(recording, len(recording), "lost", library.path.parent / "finished")
    found = Repository.open(library.path.parent / "finished")
    assert found.tags()["v2"] == digest
    found.blobs.verify(digest_of(b"shared"))


def test_a_crash_while_a_skill_is_stored_leaves_no_wrong_blob(library):
    before = set(library.blobs)
    with crash.record(library.path) as recording:
        skill = put_skill(library, "two")

    def check(folder):
        found = Repository.open(folder)
        for digest in set(found.blobs):
            found.blobs.verify(digest)
        assert before <= set(found.blobs)
        assert put_skill(found, "two") == skill
        verify_everything(found)

    crash.check_every_crash(recording, check)


def test_a_skill_that_was_stored_survives_a_power_loss(library):
    with crash.record(library.path) as recording:
        skill = put_skill(library, "two")
        stored = len(recording)
        commit_skill(library, "code", "two")

    def check(folder):
        found = Repository.open(folder)
        manifest = found.skill_manifest(skill.digest)
        for blob in (manifest.config, *manifest.layers):
            found.blobs.verify(blob.digest)

    for variant in crash.VARIANTS:
        folder = library.path.parent / f"after-{variant}"
        crash.rebuild(recording, stored, variant, folder)
        check(folder)


def test_a_crash_while_a_store_is_made(tmp_path):
    with crash.record(tmp_path) as recording:
        Repository.create(tmp_path / "a" / "store")

    def check(folder):
        found = Repository.open_or_create(folder / "a" / "store")
        commit_skill(found, "math", "one")
        verify_everything(Repository.open(folder / "a" / "store"))

    crash.check_every_crash(recording, check)


def test_a_crash_during_export_leaves_the_old_archive_or_the_new_one(library, tmp_path):
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "x.tar"
    export_archive(library, library.skills(), target)
    contents = [target.read_bytes()]
    skills = {**library.skills(), "code": put_skill(library, "two")}
    with crash.record(target.parent) as recording:
        export_archive(library, skills, target)
    contents.append(target.read_bytes())
    crash.check_every_crash(recording, lambda folder: contents.index((folder / "x.tar").read_bytes()))


def test_a_crash_during_import_leaves_no_wrong_blob(library, tmp_path):
    export_archive(library, library.skills(), tmp_path / "x.tar")
    other = Repository.create(tmp_path / "other")
    with crash.record(other.path) as recording:
        expected = import_archive(other, tmp_path / "x.tar")

    def check(folder):
        found = Repository.open(folder)
        for digest in set(found.blobs):
            found.blobs.verify(digest)
        assert found.branches() == {}
        assert import_archive(found, tmp_path / "x.tar") == expected

    crash.check_every_crash(recording, check)


KILLED = """
import sys
from skillpack_store import Repository
repository = Repository.open(sys.argv[1])
skill = repository.put_skill(b"{}", "a/config", [([b"layer"], "a/layer")])
commit = repository.commit("main", lambda s: {**s, "code": skill}, author="A", message="", tools={})
repository.tag("v2", commit)
repository.attach(skill, "a/card", [(b"x", "text/plain", "x")])
"""


def test_a_killed_process_leaves_a_store_that_works(library, tmp_path):
    number, killed = 1, True
    while killed:
        path = tmp_path / "copies" / str(number)
        shutil.copytree(library.path, path)
        killed = crash.run_until_killed(number, KILLED, str(path))
        found = Repository.open(path)
        verify_everything(found)
        assert set(found.skills()) in ({"math"}, {"math", "code"})
        assert ("v2" in found.tags()) <= ("code" in found.skills())
        commit_skill(found, "next", "after")
        verify_everything(found)
        number += 13
    assert number > 60
    assert "v2" in found.tags()


def test_a_store_that_is_half_made_is_not_opened(tmp_path):
    with crash.record(tmp_path) as recording:
        Repository.create(tmp_path / "store")

    def check(folder):
        if not (folder / "store" / "oci-layout").exists():
            with pytest.raises(StoreError):
                Repository.open(folder / "store")

    crash.check_every_crash(recording, check)
