"""The sparse codec: only what changed is paid for, and the stochastic kind is right on average."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skillpack.codecs import Sparse
from skillpack.codecs.entropy import Tables
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.noise import Seed
from skillpack.errors import DamagedSkillError
from tests.codecs.coding import coded, coded_size, decoded

SEED = Seed(("a",))
FINITE = st.floats(-1000, 1000, width=32)


def normal(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def there_and_back(delta, step, *, stochastic=False, seed=SEED):
    codec = Sparse(stochastic=stochastic)
    encoding = codec.encode(codec.analyse(delta.reshape(matrix_shape(delta.shape)), step), step, seed)
    parts = coded(encoding)
    return decoded(codec, parts, ("F32", delta.shape)), parts, encoding.distortion


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), elements=FINITE),
    st.floats(0.1, 1000),
    st.booleans(),
)
def test_what_comes_back_is_within_a_step(delta, step, stochastic):
    back, _, distortion = there_and_back(delta, step, stochastic=stochastic)
    assert (back.shape, back.dtype) == (delta.shape, np.float32)
    slack = 1.001 * step + 2e-7 * np.abs(delta).max(initial=0)
    assert (np.abs(back - delta) <= slack).all()
    np.testing.assert_allclose(
        np.square(back - delta, dtype=np.float64).sum(), distortion, rtol=1e-3, atol=step * slack
    )


def test_the_dead_zone_is_where_it_should_be():
    delta = np.array([[0.59, -0.59, 0.61, -0.61, 1.59, 1.61]], np.float32)
    back, _, _ = there_and_back(delta, 1.0)
    assert back.tolist() == [[0, 0, 1, -1, 1, 2]]


def test_only_changed_rows_cost():
    delta = np.zeros((20_000, 64), np.float32)
    delta[[5, 7000, 19_999]] = normal(3, 64)
    back, parts, _ = there_and_back(delta, 0.01)
    assert coded_size(parts) < 3 * 64 * 9 / 8 + 60
    assert np.flatnonzero(back.any(axis=1)).tolist() == [5, 7000, 19_999]
    delta[:] = normal(20_000, 64)
    assert coded_size(there_and_back(delta, 0.01)[1]) > 1000 * coded_size(parts)


def test_rows_are_coded_by_their_own_size():
    sizes = np.exp2(np.arange(200) % 8).astype(np.float32)[:, None]
    delta = sizes * normal(200, 300)
    _, parts, _ = there_and_back(delta, 1.0)
    bits = np.log2(4.13 * sizes).sum() * 300
    assert coded_size(parts) < 1.05 * bits / 8 + 200


def test_no_change_at_all():
    back, parts, distortion = there_and_back(np.zeros((100, 100), np.float32), 1.0)
    assert not back.any()
    assert coded_size(parts) == 0
    assert distortion == 0


def test_stochastic_rounding_is_unbiased_for_vectors():
    delta = normal(300, scale=0.2)
    backs = [there_and_back(delta, 1.0, stochastic=True, seed=Seed((str(key),)))[0] for key in range(300)]
    spread = 0.5 / np.sqrt(300)
    assert np.abs(np.mean(backs, axis=0) - delta).max() < 5 * spread
    along = [float(back @ delta) / float(delta @ delta) for back in backs]
    assert abs(np.mean(along) - 1) < 5 * np.std(along) / np.sqrt(300)
    assert abs(float(there_and_back(delta, 1.0)[0] @ delta) / float(delta @ delta) - 1) > 0.3


def test_one_seed_gives_one_result():
    delta = normal(50, 40)
    chunks = [there_and_back(delta, 1.0, stochastic=True, seed=Seed((key,)))[1][1] for key in "aab"]
    assert chunks[0] == chunks[1] != chunks[2]


def test_error_and_bytes_follow_the_step():
    delta = normal(200, 100)
    results = [there_and_back(delta, step) for step in (2, 1, 0.5, 0.1, 0.01)]
    errors = [distortion for _, _, distortion in results]
    sizes = [coded_size(parts) for _, parts, _ in results]
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("step", [1e-12, 1e-300, 2**-149])
@pytest.mark.parametrize("scale", [1.0, 1e30])
@pytest.mark.parametrize("stochastic", [True, False])
def test_however_fine_the_step_fp32_precision_is_reached_and_nothing_overflows(step, scale, stochastic):
    delta = normal(20, 30, scale=scale)
    back, parts, _ = there_and_back(delta, step, stochastic=stochastic)
    assert np.abs(back - delta).max() <= np.abs(delta).max() * 2.0**-22
    assert coded_size(parts) < delta.nbytes


def test_skills_packed_before_can_be_read():
    """If this fails, the contexts or their order changed: the codec needs a new name."""
    parts = FROZEN_PARAMETERS, [bytes.fromhex(chunk) for chunk in FROZEN_CHUNKS], Tables.from_json(FROZEN_TABLES)
    assert decoded(Sparse(), parts, ("F32", (4, 4))).tolist() == FROZEN_VALUES


FROZEN_PARAMETERS = {"step": 0.5}
FROZEN_CHUNKS = ["32773f35", "3f2453f2f5170000"]
FROZEN_TABLES = {
    "sparse.1": [[0, 2], [49153, 16383]],
    "sparse.13": [[2, 2, 3, 55], [16387, 16383, 16383, 16383]],
    "sparse.20": [[20, 4, 4, 91], [16387, 16383, 16383, 16383]],
    "sparse.rows": [[0, 2, 24, 10], [16387, 16383, 16383, 16383]],
}
FROZEN_VALUES = [[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 30.0, 0.5], [0.0, 0.0, 0.0, 0.5], [-400.0, 5.0, 6.0, 7.0]]


@pytest.mark.parametrize("stochastic", [True, False])
def test_denormal_deltas_do_no_harm(stochastic):
    delta = normal(20, 30, scale=1e-40)
    back, _, _ = there_and_back(delta, 1e-60, stochastic=stochastic)
    assert np.abs(back - delta).max() <= np.finfo(np.float32).tiny


@pytest.mark.parametrize("size", [30, 31, 300])
def test_any_number_of_chunks_gives_the_same_values(monkeypatch, size):
    delta = normal(40, 30)
    whole = there_and_back(delta, 0.1)[0]
    monkeypatch.setattr("skillpack.codecs.sparse._CHUNK", size)
    back, parts, _ = there_and_back(delta, 0.1)
    np.testing.assert_array_equal(back, whole)
    assert len(parts[1]) == 1 + -(-40 // max(1, size // 30))


@pytest.mark.parametrize(
    "parameters", [{}, {"step": None}, {"step": "a"}, {"step": float("inf")}, {"step": float("nan")}, {"step": [1]}]
)
def test_senseless_parameters_are_refused(parameters):
    _, parts, _ = there_and_back(normal(4, 4), 0.1)
    with pytest.raises((DamagedSkillError, KeyError, TypeError, ValueError)):
        decoded(Sparse(), (parameters, *parts[1:]), ("F32", (4, 4)))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=60), min_size=2, max_size=2))
def test_garbage_gives_garbage_or_an_error(chunks):
    _, (parameters, _, tables), _ = there_and_back(normal(12, 9), 0.1)
    try:
        back = decoded(Sparse(), (parameters, chunks, tables), ("F32", (12, 9)))
    except (DamagedSkillError, ValueError):
        return
    assert back.shape == (12, 9)
