"""Coded streams become safetensors files: one while small, one per block when large."""

import hashlib

import pytest
from safetensors import safe_open

from skillpack.packing import payload
from skillpack.packing.payload import Payload, layer_blocks, layer_header


@pytest.fixture
def filled():
    made = Payload()
    for block, data in [("b", b"12"), ("a", b"3"), ("b", b"456"), ("empty", b""), ("c", b"7" * 9)]:
        made.add(block, data)
    yield made
    made.close()


def opened(path):
    with safe_open(path, "np") as file:
        return {name: bytes(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def test_small_payloads_share_a_layer(filled, tmp_path):
    assert filled.sizes() == {"b": 5, "a": 1, "empty": 0, "c": 9}
    (layer,) = filled.layers()
    (tmp_path / "layer").write_bytes(b"".join(layer))
    assert opened(tmp_path / "layer") == {"a": b"3", "b": b"12456", "c": b"7" * 9}


def test_large_payloads_have_a_layer_a_block(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "SINGLE_LAYER", 14)
    found = []
    for at, layer in enumerate(filled.layers()):
        (tmp_path / str(at)).write_bytes(b"".join(layer))
        found.append(opened(tmp_path / str(at)))
    assert found == [{"a": b"3"}, {"b": b"12456"}, {"c": b"7" * 9}]


def test_the_limit_itself_is_small(filled, monkeypatch):
    monkeypatch.setattr(payload, "SINGLE_LAYER", 15)
    assert len(filled.layers()) == 1


def test_sizes_can_be_told_before_anything_is_coded(filled, monkeypatch):
    for limit in (100, 5):
        monkeypatch.setattr(payload, "SINGLE_LAYER", limit)
        blocks = layer_blocks(filled.sizes())
        expected = [
            len(layer_header({name: filled.sizes()[name] for name in names}))
            + sum(filled.sizes()[name] for name in names)
            for names in blocks
        ]
        assert [sum(map(len, layer)) for layer in filled.layers()] == expected


def test_an_empty_payload_has_no_layers():
    made = Payload()
    made.add("a", b"")
    assert made.layers() == []
    made.close()


def test_layers_are_read_in_pieces(monkeypatch):
    monkeypatch.setattr(payload, "_COPY", 7)
    made = Payload()
    data = bytes(range(100))
    made.add("a", data)
    (layer,) = made.layers()
    _, *pieces = layer
    assert max(map(len, pieces)) == 7
    assert hashlib.sha256(b"".join(pieces)).digest() == hashlib.sha256(data).digest()
    made.close()
