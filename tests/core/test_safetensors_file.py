"""Our reader and writer against the safetensors library, and against damaged files."""

import json
import struct

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from skillpack.errors import CheckpointError, DamagedCheckpointError, SkillPackError, UnsupportedCheckpointError
from skillpack.safetensors_file import aligned_order, open_tensor, plan_header, read_header, write_safetensors
from skillpack.tensors import DTYPE_BYTES, Tensor

ARRAYS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "ids": np.arange(4),
    "scalar": np.array(7, np.int16),
    "empty": np.zeros((0, 5), np.float32),
    "mask": np.array([True, False, True]),
}


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write(path, content):
    path.write_bytes(content)
    return path


def test_reads_what_the_library_writes(tmp_path):
    save_file(ARRAYS, tmp_path / "m.safetensors", {"format": "pt"})
    header = read_header(tmp_path / "m.safetensors")
    assert header.metadata == {"format": "pt"}
    assert header.entries.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        tensor = open_tensor(tmp_path / "m.safetensors", header, name)
        np.testing.assert_array_equal(tensor.array(), array)
        assert tensor.dtype == Tensor.of(array).dtype
        assert not tensor.data.flags.writeable or not tensor.nbytes


def test_the_library_reads_what_we_write(tmp_path):
    tensors = {name: Tensor.of(array) for name, array in ARRAYS.items()}
    entries = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    ordered = {name: entries[name] for name in aligned_order(entries)}
    target = tmp_path / "m.safetensors"
    write_safetensors(target, ordered, tensors.__getitem__, {"format": "pt"})
    for name, array in load_file(target).items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    with safetensors.safe_open(target, "np") as file:
        assert file.metadata() == {"format": "pt"}
    header = read_header(target)
    assert list(header.entries) == list(ordered)
    assert all(entry.start % DTYPE_BYTES[entry.dtype] == 0 for entry in header.entries.values())


def test_aligned_order_gives_the_librarys_bytes(tmp_path):
    tensors = {name: Tensor.of(array) for name, array in ARRAYS.items() if name in {"w", "half", "ids"}}
    save_file({name: ARRAYS[name] for name in tensors}, tmp_path / "library.safetensors")
    entries = {name: (tensors[name].dtype, tensors[name].shape) for name in ("ids", "w", "half")}
    assert aligned_order(entries) == ["ids", "w", "half"]
    write_safetensors(tmp_path / "ours.safetensors", entries, tensors.__getitem__)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()


def test_writing_something_else_than_planned_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match="planned"):
        write_safetensors(tmp_path / "m", {"w": ("F32", (2,))}, lambda _: Tensor.of(np.zeros(3, np.float32)))
    assert not list(tmp_path.iterdir())


def test_metadata_does_not_follow_insertion_order():
    assert plan_header({}, {"b": "2", "a": "1"}) == plan_header({}, {"a": "1", "b": "2"})


def test_views_of_8_bit_floats_are_refused_although_the_header_is_sound(tmp_path):
    header = {"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    path = write(tmp_path / "m", raw(header, bytes(4)))
    with pytest.raises(UnsupportedCheckpointError, match="F8_E4M3"):
        open_tensor(path, read_header(path), "w")


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path):
    path = tmp_path / "m"
    save_file({"w": np.zeros(1000)}, path)
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedCheckpointError, match="tensor w cannot be read"):
        open_tensor(path, header, "w")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(CheckpointError, match=r"m\.safetensors: cannot be read: No such file"):
        read_header(tmp_path / "m.safetensors")


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (struct.pack("<Q", 100), "truncated"),
        (struct.pack("<Q", 2**63), "at most 100000000"),
        (raw(b"\xff\xfe"), "not valid JSON"),
        (raw(b"[" * 5000), "not valid JSON"),
        (raw([]), "not a JSON object"),
        (raw(b'{"a":{},"a":{}}'), "occurs twice"),
        (raw({"__metadata__": {"a": 1}}), "__metadata__"),
        (raw({"w": 3}), "tensor w: expected dtype"),
        (raw({"w": entry() | {"more": 1}}), "tensor w: expected dtype"),
        (raw({"w": entry("F33")}), "unknown dtype 'F33'"),
        (raw({"w": entry(["F32"])}), "unknown dtype"),
        (raw({"w": entry(shape=(-1,))}), "impossible shape"),
        (raw({"w": entry(shape=(True,))}), "impossible shape"),
        (raw({"w": entry(shape=(0, 10**30), offsets=(0, 0))}), "impossible shape"),
        (raw({"w": entry(shape=(1,) * 40, offsets=(0, 1))}), "impossible shape"),
        (raw({"w": entry(offsets=(0, 4.0))}), "impossible data_offsets"),
        (raw({"w": entry(offsets=(0,))}), "impossible data_offsets"),
        (raw({"w": entry(offsets=(0, 3))}), "does not take 3 bytes"),
        (raw({"w": entry(offsets=(4, 0))}), "does not take -4 bytes"),
        (raw({"w": entry()}, bytes(3)), "is truncated: tensor w ends at"),
        (raw({"w": entry()}, bytes(5)), "1 bytes after its last tensor"),
        (raw({"w": entry(offsets=(1, 5))}, bytes(5)), "leaves a gap"),
        (raw({"w": entry(), "v": entry(offsets=(2, 6))}, bytes(6)), "overlaps"),
        (raw({"w": entry(), "v": entry()}, bytes(4)), "overlaps"),
        (raw({"a\nb": entry()}, bytes(4)), "impossible name"),
        (raw({"\ud800": entry()}, bytes(4)), "impossible name"),
        (raw({"": entry()}, bytes(4)), "impossible name"),
    ],
)
def test_damaged_files_are_named_and_explained(tmp_path, content, message):
    path = write(tmp_path / "shard.safetensors", content)
    with pytest.raises(DamagedCheckpointError, match=message) as caught:
        read_header(path)
    assert "shard.safetensors" in str(caught.value)
    assert caught.value.exit_code == 13


@settings(deadline=None)
@given(st.data())
def test_random_damage_gives_our_errors_and_nothing_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "m.safetensors"
    save_file({name: ARRAYS[name] for name in ("w", "ids", "empty")}, path, {"format": "pt"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if action == "set":
            content[place] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del content[place : place + data.draw(st.integers(1, 40))]
        else:
            content[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        if not content:
            break
    path.write_bytes(content)
    try:
        header = read_header(path)
        for name in header.entries:
            open_tensor(path, header, name).digest()
    except SkillPackError:
        return
    assert sum(entry.end - entry.start for entry in header.entries.values()) == len(content) - header.size


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_headers_give_our_errors_and_nothing_else(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("random") / "m", raw(text))
    try:
        read_header(path)
    except DamagedCheckpointError:
        return
    assert load_file(path) == {}
