"""The harness finds the mistakes it is there to find."""

from __future__ import annotations

import os

import pytest

from skillpack_store import disk
from tests import crash


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"old")
    return tmp_path / "folder"


def old_or_new(folder):
    assert (folder / "a").read_bytes() in {b"old", b"new"}


def write(folder, *, sync=True, sync_directory=True):
    fd = disk.create(folder / "t")
    disk.write(fd, b"new")
    if sync:
        disk.sync(fd)
    disk.close(fd)
    disk.rename(folder / "t", folder / "a")
    if sync_directory:
        disk.sync_directory(folder)


def test_a_right_write_passes_in_every_variant(folder):
    with crash.record(folder) as recording:
        disk.replace(folder / "a", [b"new"])
    assert [operation.name for operation in recording.operations] == [
        "create",
        "write",
        "sync",
        "close",
        "rename",
        "sync_directory",
    ]
    assert crash.check_every_crash(recording, old_or_new) == 4


def test_a_missing_sync_of_the_file_is_found(folder):
    with crash.record(folder) as recording:
        write(folder, sync=False)
    crash.check_every_crash(recording, old_or_new, variants=["persisted"])
    for variant in ("lost", "emptied"):
        with pytest.raises(AssertionError, match=f"variant {variant}"):
            crash.check_every_crash(recording, old_or_new, variants=[variant])


def test_a_missing_sync_of_the_folder_is_found(folder, tmp_path):
    with crash.record(folder) as recording:
        write(folder, sync_directory=False)
    crash.rebuild(recording, len(recording), "lost", tmp_path / "after")
    assert (tmp_path / "after" / "a").read_bytes() == b"old"
    crash.rebuild(recording, len(recording), "emptied", tmp_path / "after-2")
    assert (tmp_path / "after-2" / "a").read_bytes() == b"new"


def test_writing_in_place_is_found(folder):
    with crash.record(folder) as recording:
        disk.unlink(folder / "a")
        disk.write_new(folder / "a", [b"new"])
        disk.sync_directory(folder)
    with pytest.raises(AssertionError, match=r"after 1 of \d+ calls, the last one unlink\(a\), variant persisted"):
        crash.check_every_crash(recording, old_or_new)


def test_a_change_that_goes_around_disk_is_found(folder):
    bypassed = pytest.raises(AssertionError, match=r"changed without skillpack_store.disk: \['b'\]")
    with bypassed, crash.record(folder):
        (folder / "b").touch()
    with crash.record(folder):
        (folder / "b.lock").touch()


def test_links_and_modes_come_back(folder, tmp_path):
    os.link(folder / "a", folder / "hard")
    (folder / "soft").symlink_to("a")
    (folder / "empty").mkdir()
    (folder / "a").chmod(0o444)
    with crash.record(folder) as recording:
        disk.link(folder / "a", folder / "third")
        disk.make_directory(folder / "x" / "y")
        disk.touch(folder / "a")
        disk.set_mode(folder / "a", 0o400)
        disk.rmdir(folder / "empty")
    crash.rebuild(recording, len(recording), "persisted", tmp_path / "after")
    after = tmp_path / "after"
    assert (after / "a").stat().st_nlink == 3
    assert (after / "a").stat().st_mode & 0o777 == 0o400
    assert (after / "soft").readlink().name == "a"
    assert sorted(path.name for path in after.iterdir()) == ["a", "hard", "soft", "third", "x"]
    crash.rebuild(recording, len(recording), "lost", tmp_path / "lost")
    assert sorted(path.name for path in (tmp_path / "lost").iterdir()) == ["a", "empty", "hard", "soft", "third", "x"]
    assert (tmp_path / "lost" / "x" / "y").is_dir()


def test_the_primitives_are_restored(folder):
    before = [getattr(disk, name) for name in disk.PRIMITIVES]
    with pytest.raises(RuntimeError, match="stop"), crash.record(folder):
        raise RuntimeError("stop")
    assert [getattr(disk, name) for name in disk.PRIMITIVES] == before


def test_a_process_kills_itself_at_the_call(folder):
    snippet = "import sys, pathlib; from skillpack_store import disk; disk.replace(pathlib.Path(sys.argv[1]), [b'new'])"
    outcomes = [crash.run_until_killed(number, snippet, str(folder / "a")) for number in (1, 5, 6, 7)]
    assert outcomes == [True, True, True, False]
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        crash.run_until_killed(1, "1 / 0")
