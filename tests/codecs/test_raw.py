"""Raw tensors come back bit for bit, whatever their dtype, and bombs do not go off."""

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs import Raw
from skillpack.codecs.entropy import ChunkReader, Tables
from skillpack.codecs.protocol import Layout
from skillpack.errors import DamagedSkillError
from skillpack.tensors import DTYPE_BYTES, Tensor
from tests.codecs.coding import coded, coded_size, decoded

RAW = Raw()


def there_and_back(tensor):
    parts = coded(RAW.encode(None, tensor))
    back = decoded(RAW, parts, (tensor.dtype, tensor.shape))
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    np.testing.assert_array_equal(back.data, tensor.data)
    return parts


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(0, 5), max_size=4), st.binary(min_size=1))
def test_any_dtype_and_shape(dtype, shape, pattern):
    size = DTYPE_BYTES[dtype] * int(np.prod(shape, dtype=np.int64))
    data = np.resize(np.frombuffer(pattern, np.uint8), size)
    there_and_back(Tensor(dtype, tuple(shape), data))


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize(("dtype", "chunk"), [("U8", 64), ("BF16", 64), ("F64", 64)])
def test_sizes_around_a_chunk(monkeypatch, dtype, chunk, extra):
    monkeypatch.setattr("skillpack.codecs.raw._CHUNK", chunk)
    for chunks in (1, 2):
        count = chunks * chunk // DTYPE_BYTES[dtype] + extra
        data = np.random.default_rng(0).integers(0, 256, count * DTYPE_BYTES[dtype], np.uint8)
        parts = there_and_back(Tensor(dtype, (count,), data))
        assert len(parts[1]) == chunks + (extra > 0)


def test_a_tensor_larger_than_a_chunk():
    tensor = Tensor.of(np.arange((1 << 22) + 3, dtype=np.float32))
    assert len(there_and_back(tensor)[1]) == 2


def test_bytes_of_equal_significance_compress_together():
    values = Tensor.of(np.random.default_rng(0).normal(size=50_000).astype(np.float32))
    plain = len(zstandard.ZstdCompressor(level=12).compress(values.data.tobytes()))
    assert coded_size(coded(RAW.encode(None, values))) < 0.95 * plain


def read(chunks, layout):
    return RAW.decode({}, iter([ChunkReader(chunk, Tables({})) for chunk in chunks]), Layout(*layout), None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (zstandard.ZstdCompressor().compress(bytes(1 << 30)), "announces 1073741824 bytes where 8 were expected"),
        (zstandard.ZstdCompressor().compress(bytes(9)), "announces 9 bytes"),
        (zstandard.ZstdCompressor().compress(bytes(7)), "announces 7 bytes"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8)), "where 8 were expected"),
        (zstandard.ZstdCompressor().compress(bytes(8))[:-1], "does not decompress"),
        (b"not zstandard", "does not decompress"),
        (b"", "does not decompress"),
    ],
)
def test_bombs_and_damage_are_refused(content, reason):
    with pytest.raises(DamagedSkillError, match=reason):
        read([content], ("F64", (1,)))


def test_a_frame_that_lies_about_its_size_is_refused():
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(200)))
    assert frame[5] == 200
    frame[5] = 8
    with pytest.raises(DamagedSkillError):
        read([bytes(frame)], ("U8", (8,)))


def test_a_missing_chunk_ends_the_reading():
    with pytest.raises(StopIteration):
        read([], ("U8", (8,)))
