"""Tensors as stored: casts against torch, digests against hashlib."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skillpack.tensors import DTYPE_BYTES, FLOAT_DTYPES, Tensor

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
bit_patterns = arrays.arrays(np.uint32, arrays.array_shapes(min_dims=0, max_dims=3, max_side=40))


def of_torch(tensor, dtype):
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return Tensor(dtype, tuple(tensor.shape), raw)


@settings(deadline=None)
@given(bit_patterns, st.sampled_from(sorted(FLOAT_DTYPES)))
def test_casts_from_fp32_round_as_torch_does(bits, dtype):
    values = np.ascontiguousarray(bits).view(np.float32).reshape(bits.shape)
    ours = Tensor.from_float32(values, dtype)
    theirs = of_torch(torch.from_numpy(values.copy()).to(TORCH[dtype]), dtype)
    is_nan = np.isnan(values)
    assert ours.shape == bits.shape
    np.testing.assert_array_equal(ours.bits()[~is_nan], theirs.bits()[~is_nan])
    assert np.isnan(ours.float32()[is_nan]).all()


def test_bf16_ties_go_to_even_and_overflow_to_infinity():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7FFFFFFF, 0xFF800001], np.uint32)
    cast = Tensor.from_float32(bits.view(np.float32), "BF16").bits()
    assert [hex(value) for value in cast] == ["0x3f80", "0x3f82", "0x3f81", "0x7f80", "0x7fff", "0xffc0"]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_every_16_bit_pattern_widens_exactly_and_comes_back(dtype):
    patterns = np.arange(1 << 16, dtype=np.uint16)
    tensor = Tensor(dtype, (256, 256), patterns.view(np.uint8))
    widened = tensor.float32()
    expected = torch.from_numpy(patterns.view(np.int16)).view(TORCH[dtype]).float().numpy().reshape(256, 256)
    np.testing.assert_array_equal(widened, expected)
    finite = ~np.isnan(widened)
    np.testing.assert_array_equal(Tensor.from_float32(widened, dtype).bits()[finite], tensor.bits()[finite])


def test_large_bf16_cast_is_the_same_as_piecewise(monkeypatch):
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    whole = Tensor.from_float32(values, "BF16")
    monkeypatch.setattr("skillpack.tensors._CHUNK", 7)
    assert Tensor.from_float32(values, "BF16").digest() == whole.digest()


def test_fp64_rounds_to_the_nearest_fp32():
    values = np.array([1 + 2**-24, 1 + 3 * 2**-24, 1e300, np.nan])
    np.testing.assert_array_equal(Tensor.of(values).float32(), np.array([1, 1 + 2**-22, np.inf, np.nan], np.float32))


def test_fp32_values_are_a_view():
    tensor = Tensor.of(np.ones(3, np.float32))
    assert np.shares_memory(tensor.float32(), tensor.data)


def test_digest_is_sha256_over_dtype_shape_and_bytes():
    tensor = Tensor.of(np.arange(6, dtype=np.int16).reshape(2, 3))
    expected = hashlib.sha256(b"I16 2x3\n" + np.arange(6, dtype="<i2").tobytes()).hexdigest()
    assert tensor.digest() == f"sha256:{expected}"
    same_bytes = [Tensor("U16", (2, 3), tensor.data), Tensor("I16", (6,), tensor.data)]
    assert len({tensor.digest(), *(other.digest() for other in same_bytes)}) == 3


@pytest.mark.parametrize("dtype", sorted(set(DTYPE_BYTES) - {"BF16"}))
def test_numpy_arrays_of_every_dtype_are_wrapped_and_come_back(dtype):
    array = Tensor(dtype, (2, 2), np.arange(4 * DTYPE_BYTES[dtype], dtype=np.uint8) % 2).array()
    again = Tensor.of(array[:, ::-1])
    assert again.dtype == dtype
    np.testing.assert_array_equal(again.array(), array[:, ::-1])


def test_big_endian_arrays_are_stored_little_endian():
    assert Tensor.of(np.array([1], ">i4")).data.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_scalars_and_empty_tensors(shape):
    tensor = Tensor.of(np.zeros(shape, np.float32))
    for dtype in FLOAT_DTYPES:
        cast = Tensor.from_float32(tensor.float32(), dtype)
        assert cast.shape == shape
        assert cast.float32().shape == shape
        assert cast.digest().startswith("sha256:")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Tensor("F32", (2,), np.zeros(4, np.uint8)), ValueError, "takes 8 bytes"),
        (lambda: Tensor("F32", (1,), np.zeros(1, np.float32)), ValueError, "float32"),
        (lambda: Tensor("F8_E4M3", (1,), np.zeros(1, np.uint8)), ValueError, "unknown dtype"),
        (lambda: Tensor.of(np.zeros(1, np.complex64)), TypeError, "complex64"),
        (lambda: Tensor.of(np.zeros(1, np.int64)).float32(), TypeError, "I64"),
        (lambda: Tensor("BF16", (1,), np.zeros(2, np.uint8)).array(), TypeError, "BF16"),
        (lambda: Tensor.from_float32(np.zeros(1, np.float32), "I64"), TypeError, "I64"),
        (lambda: Tensor.from_float32(np.zeros(1), "F32"), TypeError, "float64"),
    ],
)
def test_misuse_is_an_error(make, error, message):
    with pytest.raises(error, match=message):
        make()
