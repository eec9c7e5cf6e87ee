"""The exact codec: every bit pattern comes back, and what did not change costs next to nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skillpack.codecs import Exact
from skillpack.codecs.entropy import ChunkReader, Tables
from skillpack.codecs.protocol import Layout
from skillpack.errors import DamagedSkillError
from skillpack.tensors import DTYPE_BYTES, Tensor
from tests.codecs.coding import coded, coded_size, decoded

EXACT = Exact()
DTYPES = sorted(Exact.dtypes)
WIDTHS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32, "F64": np.uint64}
# -0, the smallest denormals, the largest finite numbers, infinities, quiet and signalling NaN with payloads.
SPECIAL = {
    "BF16": [0, 0x8000, 1, 0x8001, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0xFFFF, 0x7F81, 0x0080, 0x3F80],
    "F16": [0, 0x8000, 1, 0x8001, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7C01, 0x0400, 0x3C00],
    "F32": [0, 1 << 31, 1, (1 << 31) + 1, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFFFFFFF],
}


def of_bits(bits, dtype):
    flat = np.ascontiguousarray(bits, WIDTHS[dtype]).reshape(-1)
    return Tensor(dtype, np.shape(bits), flat.view(np.uint8))


def normal(shape, dtype="BF16", scale=1.0, seed=0):
    return Tensor.from_float32((scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32), dtype)


def there_and_back(reference, tuned):
    parts = coded(EXACT.encode(reference, tuned))
    back = decoded(EXACT, parts, (tuned.dtype, tuned.shape), reference)
    assert (back.dtype, back.shape) == (tuned.dtype, tuned.shape)
    np.testing.assert_array_equal(back.data, tuned.data)
    return parts


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([*DTYPES, "F64"]), st.sampled_from(DTYPES))
def test_any_bit_patterns_of_any_two_dtypes(data, base, tuned):
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, max_side=6))
    bits = [data.draw(arrays.arrays(WIDTHS[dtype], shape)) for dtype in (base, tuned)]
    there_and_back(of_bits(bits[0], base), of_bits(bits[1], tuned))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_special_number_from_and_to_every_other(dtype):
    before, after = np.meshgrid(SPECIAL[dtype], SPECIAL[dtype])
    there_and_back(of_bits(before, dtype), of_bits(after, dtype))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_pattern(dtype):
    patterns = np.arange(1 << 16).reshape(256, 256)
    there_and_back(of_bits(patterns, dtype), of_bits(patterns[::-1, ::-1], dtype))


@pytest.mark.parametrize("shape", [(), (1,), (300,), (20, 30), (1, 50), (50, 1), (4, 5, 6), (4, 3, 2, 5)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_changes_in_any_shape(shape, dtype):
    values = normal(shape).float32()
    changed = values + normal(shape, seed=1).float32() * np.float32(0.01)
    there_and_back(Tensor.from_float32(values, dtype), Tensor.from_float32(changed, dtype))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 0, 3)])
def test_empty_tensors(shape):
    parts = there_and_back(normal(shape, "F32"), normal(shape, "BF16"))
    assert coded_size(parts) <= 8


@pytest.mark.parametrize(("base", "tuned"), [("BF16", "F32"), ("F32", "BF16"), ("F16", "F32"), ("F64", "F32")])
def test_a_fine_tune_saved_in_another_dtype(base, tuned):
    values = normal((64, 64), "BF16").float32()
    reference = Tensor.of(values.astype(np.float64)) if base == "F64" else Tensor.from_float32(values, base)
    there_and_back(reference, Tensor.from_float32(values + np.float32(0.001), tuned))
    same = there_and_back(reference, Tensor.from_float32(reference.float32(), tuned))
    assert coded_size(same) <= 8


@pytest.mark.parametrize("rows_in_chunk", [1, 7, 40])
def test_any_number_of_chunks(monkeypatch, rows_in_chunk):
    monkeypatch.setattr("skillpack.codecs.exact._CHUNK", 30 * rows_in_chunk)
    parts = there_and_back(normal((40, 30)), normal((40, 30), seed=1))
    assert len(parts[1]) == 1 + -(-40 // rows_in_chunk)


def test_a_tensor_larger_than_a_chunk():
    before = normal((1100, 1000))
    after = Tensor.from_float32(before.float32() + np.float32(0.01), "BF16")
    assert len(there_and_back(before, after)[1]) == 3


def test_rows_without_change_cost_next_to_nothing():
    before, changed = normal((1000, 200)), normal((1000, 200), seed=1)
    bits = before.bits().copy()
    bits[7] = changed.bits()[7]
    one = coded_size(there_and_back(before, of_bits(bits, "BF16")))
    assert one < 200 * 2 + 100
    bits[:500] = changed.bits()[:500]
    half = coded_size(there_and_back(before, of_bits(bits, "BF16")))
    assert half < 0.52 * coded_size(there_and_back(before, changed))


def test_sparse_changes_cost_far_less_than_the_tensor():
    before = normal((500, 500))
    bits = before.bits().copy()
    bits.flat[::100] += 1
    assert coded_size(there_and_back(before, of_bits(bits, "BF16"))) < 0.15 * bits.size


def test_the_size_of_a_change_is_learnt_per_row_and_per_column():
    random = np.random.default_rng(0)
    size = np.exp(random.normal(size=(400, 1)) * 2) * np.exp(random.normal(size=(1, 400)) * 2)
    before = normal((400, 400), "F32")
    after = Tensor.from_float32(
        before.float32() + (1e-3 * size * random.normal(size=(400, 400))).astype(np.float32), "F32"
    )
    there = coded_size(there_and_back(before, after))
    shuffled = random.permutation((after.float32() - before.float32()).reshape(-1)).reshape(400, 400)
    mixed = Tensor.from_float32(before.float32() + shuffled, "F32")
    assert there < 0.97 * coded_size(there_and_back(before, mixed))


def test_skills_packed_before_can_be_read():
    """If this fails, the contexts or their order changed: the codec needs a new name."""
    numbers = np.arange(24).reshape(4, 6)
    bits = np.where(numbers < 12, 97 * numbers, 2731 * numbers + 3)  # Half of them denormal.
    after = of_bits(bits + numbers % 5, "F16")
    parts = {}, [bytes.fromhex(chunk) for chunk in FROZEN_CHUNKS], Tables.from_json(FROZEN_TABLES)
    assert decoded(EXACT, parts, ("F16", (4, 6)), of_bits(bits, "F16")).bits().tolist() == after.bits().tolist()


FROZEN_CHUNKS = ["9000185c9b97fc7004000000", "aed01e966ad90000"]
FROZEN_TABLES = {
    "exact.F16.-14": [[6, 2], [32769, 32767]],
    "exact.F16.-2": [[0, 8], [32769, 32767]],
    "exact.F16.-24": [[0, 2, 2, 2, 1], [16390, 16382, 16382, 8191, 8191]],
    "exact.F16.-3": [[0], [65536]],
    "exact.F16.0": [[1, 2], [32769, 32767]],
    "exact.F16.1": [[1], [65536]],
    "exact.F16.13": [[0, 2], [32769, 32767]],
    "exact.F16.4": [[3], [65536]],
    "exact.F16.5": [[5], [65536]],
    "exact.F16.7": [[5], [65536]],
    "exact.F16.8": [[7], [65536]],
    "exact.scale": [[0, 18, 6, 6, 20, 1, 4, 9, 5], [6552, 6552, 6552, 6552, 6552, 6552, 6552, 13120, 6552]],
}


def test_a_reference_is_needed():
    with pytest.raises(ValueError, match="reference"):
        EXACT.encode(None, normal((2, 2)))
    parts = coded(EXACT.encode(normal((2, 2)), normal((2, 2), seed=1)))
    with pytest.raises(DamagedSkillError, match="reference"):
        decoded(EXACT, parts, ("BF16", (2, 2)))
    with pytest.raises(DamagedSkillError):
        decoded(EXACT, parts, ("I16", (2, 2)), normal((2, 2)))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_streams_give_errors_or_wrong_numbers(data):
    before, after = normal((30, 20)), normal((30, 20), seed=1)
    parameters, chunks, tables = coded(EXACT.encode(before, after))
    at = data.draw(st.integers(0, len(chunks) - 1))
    damaged = bytearray(chunks[at])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    chunks[at] = bytes(damaged)
    readers = iter([ChunkReader(chunk, tables) for chunk in chunks])
    try:
        back = EXACT.decode(parameters, readers, Layout("BF16", (30, 20)), before)
    except (DamagedSkillError, ValueError):
        return
    assert (back.dtype, back.shape, back.nbytes) == ("BF16", (30, 20), 600 * DTYPE_BYTES["BF16"])
