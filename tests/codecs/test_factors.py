"""An adapter's factors come back bit for bit, and their product with them; descriptions that lie are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs import AdapterFactors
from skillpack.codecs.entropy import ChunkReader
from skillpack.codecs.factors import LoraFactors
from skillpack.codecs.protocol import Layout
from skillpack.errors import DamagedSkillError
from skillpack.tensors import Tensor
from tests.codecs.coding import coded, decoded

CODEC = AdapterFactors()


def factors(seed=0, dtypes=("BF16", "BF16"), sizes=(12, 4, 9), alpha=6, *, rooted=False, turned=False):
    random, (out, rank, into) = np.random.default_rng(seed), sizes
    down, up = (
        Tensor.from_float32(random.standard_normal(shape, np.float32), dtype)
        for shape, dtype in zip(((rank, into), (out, rank)), dtypes, strict=True)
    )
    return LoraFactors(down, up, alpha, rooted, turned)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32),
    st.tuples(st.sampled_from(["BF16", "F16", "F32"]), st.sampled_from(["BF16", "F16", "F32"])),
    st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 9)),
    st.one_of(st.integers(1, 64), st.floats(-4, 4)),
    st.tuples(st.booleans(), st.booleans()),
)
def test_there_and_back(seed, dtypes, sizes, alpha, flags):
    rooted, turned = flags
    given_factors = factors(seed, dtypes, sizes, alpha, rooted=rooted, turned=turned)
    out, _, into = sizes
    shape = (into, out) if turned else (out, into)
    parameters, chunks, tables = parts = coded(CODEC.encode(given_factors))
    back = CODEC.read(parameters, iter([ChunkReader(chunk, tables) for chunk in chunks]), Layout("BF16", shape))
    for ours, theirs in ((back.down, given_factors.down), (back.up, given_factors.up)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.data.tobytes() == theirs.data.tobytes()
    assert (back.alpha, back.rooted, back.turned) == (alpha, rooted, turned)
    delta = decoded(CODEC, parts, ("BF16", shape))
    expected = given_factors.up.float32().astype(float) @ given_factors.down.float32().astype(float)
    expected *= alpha / (sizes[1] ** 0.5 if rooted else sizes[1])
    np.testing.assert_allclose(delta, expected.T if turned else expected, rtol=1e-5, atol=1e-5)


def test_a_kernel_is_folded_after_its_first_axis():
    given_factors = factors(sizes=(6, 2, 3 * 5 * 5))
    delta = decoded(CODEC, coded(CODEC.encode(given_factors)), ("F32", (6, 3, 5, 5)))
    left, right = given_factors.matrices()
    np.testing.assert_allclose(delta.reshape(6, -1), left @ right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("rank", 0),
        ("rank", True),
        ("rank", 2.0),
        ("rank", 1025),
        ("rank", 5),
        ("rank", 3),
        ("alpha", "6"),
        ("alpha", float("nan")),
        ("alpha", float("inf")),
        ("dtypes", ["BF16"]),
        ("dtypes", ["F64", "F64"]),
        ("dtypes", "BF16"),
        ("rooted", 1),
        ("turned", None),
    ],
)
def test_wrong_descriptions_are_refused(what, value):
    parameters, chunks, tables = coded(CODEC.encode(factors()))
    with pytest.raises(DamagedSkillError):
        decoded(CODEC, ({**parameters, what: value}, chunks, tables), ("BF16", (12, 9)))


@pytest.mark.parametrize("shape", [(12,), (), (12, 8), (1 << 39, 1)])
def test_tensors_that_they_do_not_fit_are_refused(shape):
    with pytest.raises(DamagedSkillError):
        decoded(CODEC, coded(CODEC.encode(factors())), ("BF16", shape))


def test_what_the_codec_does_not_take():
    assert factors().can_be_coded
    assert not factors(dtypes=("BF16", "F64")).can_be_coded
    broken = factors(dtypes=("F32", "F32"))
    broken.up.array()[0, 0] = np.nan
    assert not broken.can_be_coded
