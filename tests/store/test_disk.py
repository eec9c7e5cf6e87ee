from __future__ import annotations

import errno
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from skillpack_store import disk


def test_replace_keeps_the_old_file_when_the_new_one_fails(tmp_path):
    target = tmp_path / "a.bin"
    disk.replace(target, [b"old"])

    def chunks():
        yield b"new"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        disk.replace(target, chunks())
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_replace_takes_the_place_of_a_link_and_spares_its_target(tmp_path):
    (tmp_path / "base.bin").write_bytes(b"base")
    os.link(tmp_path / "base.bin", tmp_path / "hard.bin")
    (tmp_path / "soft.bin").symlink_to("base.bin")
    for name in ("hard.bin", "soft.bin"):
        disk.replace(tmp_path / name, [b"mine"])
        assert (tmp_path / name).read_bytes() == b"mine"
    assert (tmp_path / "base.bin").read_bytes() == b"base"


@pytest.mark.parametrize(
    "data", [b"abc", bytearray(b"abc"), memoryview(b"abc"), np.arange(6, dtype="<u4").reshape(2, 3)]
)
def test_write_new_takes_any_contiguous_buffer(tmp_path, data):
    disk.write_new(tmp_path / "x", [data, b"", np.zeros((0, 4), np.uint8)])
    assert (tmp_path / "x").read_bytes() == bytes(data)


def test_write_new_refuses_a_taken_name_and_leaves_it(tmp_path):
    (tmp_path / "x").write_bytes(b"theirs")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("x", "link"):
        with pytest.raises(FileExistsError):
            disk.write_new(tmp_path / name, [b"mine"])
    assert (tmp_path / "x").read_bytes() == b"theirs"
    assert not (tmp_path / "nowhere").exists()


def test_write_exclusive_has_one_winner(tmp_path):
    assert disk.write_exclusive(tmp_path / "1", [b"first"])
    assert not disk.write_exclusive(tmp_path / "1", [b"second"])
    assert (tmp_path / "1").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert (tmp_path / "1").stat().st_nlink == 1


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            disk.replace(tmp_path / "big", [bytes(5000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert Path(caught.value.filename).parent == tmp_path
    assert ".big." in caught.value.filename
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_source_keeps_its_own_file_name(tmp_path):
    def chunks():
        yield (tmp_path / "missing").read_bytes()

    with pytest.raises(FileNotFoundError) as caught:
        disk.replace(tmp_path / "x", chunks())
    assert caught.value.filename == str(tmp_path / "missing")


def test_make_directory_makes_parents_and_refuses_a_file_in_the_way(tmp_path):
    disk.make_directory(tmp_path / "a" / "b" / "c")
    disk.make_directory(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        disk.make_directory(tmp_path / "file")


def test_remove_tree_does_not_follow_links(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").touch()
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "y").touch()
    (tree / "link").symlink_to("../kept")
    disk.remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "kept" / "x").exists()


def test_temporary_names_fit_beside_the_longest_name(tmp_path):
    disk.replace(tmp_path / ("x" * 255), [b"1"])
    disk.replace(tmp_path / ("é" * 127), [b"1"])
    assert len(list(tmp_path.iterdir())) == 2
