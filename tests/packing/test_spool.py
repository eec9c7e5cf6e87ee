"""Arrays in files take neither memory nor open files, and stay where they are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from skillpack.packing.spool import mapped, spool, spooled


@pytest.fixture
def room(tmp_path, monkeypatch):
    """The folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_arrays_in_files_keep_none_open_and_leave_none(room):
    before = open_files()
    arrays = [spooled((30, 50), np.float32) for _ in range(100)]
    assert open_files() == before
    assert list(room.iterdir()) == []
    for place, array in enumerate(arrays):
        assert not array.any()
        array[...] = place
    for place, array in enumerate(arrays):
        assert (array == place).all()
    assert spooled((0, 3), np.float64).shape == (0, 3)


@pytest.mark.usefixtures("room")
def test_what_is_in_a_file_stays_there():
    given = {"filed": spooled((4, 5), np.float32), "not": np.arange(6.0, dtype=np.float32)[::2]}
    found = spool(given)
    assert found["filed"] is given["filed"]
    assert isinstance(found["not"], np.memmap)
    np.testing.assert_array_equal(found["not"], [0, 2, 4])
    # What is computed from it is not in a file.
    assert not isinstance(given["filed"] + 1, np.memmap)


def test_only_shared_files_are_written_to(tmp_path):
    path = tmp_path / "file"
    for shared in (False, True):
        path.write_bytes(b"abcdef")
        found = mapped(path, 4, shared=shared)
        assert found.tobytes() == b"abcd"
        found[0] = ord("x")
        assert path.read_bytes() == (b"xbcdef" if shared else b"abcdef")
    path.unlink()
    assert found.tobytes() == b"xbcd"


@pytest.mark.parametrize("name", ["file", "missing", "."])
def test_what_cannot_be_mapped_is_named(name, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(OSError, match="cannot be mapped"):
        mapped(tmp_path / name, 4)
