"""The Tucker codec: right on average, the same bits everywhere, and small where axes share their structure."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skillpack.codecs import LowRank, Tucker, codec_named, tucker
from skillpack.codecs import multilinear as multilinear_module
from skillpack.codecs.dither import UNIT, Dither, read_groups
from skillpack.codecs.entropy import ChunkReader
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.noise import Seed
from skillpack.codecs.protocol import Cost
from skillpack.errors import DamagedSkillError
from skillpack.packing.allocate import cheapest
from tests.codecs.coding import coded, coded_size, decoded, tucker_streams

TUCKER = Tucker()
SEED = Seed(("a",))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def multilinear(shape, sizes, decay=0.8, seed=0):
    """A tensor of norm 1 with slices in as many directions along each axis as `sizes` says."""
    random = np.random.default_rng(seed)
    tensor = random.normal(size=sizes)
    for axis, (length, size) in enumerate(zip(shape, sizes, strict=True)):
        directions = np.linalg.qr(random.normal(size=(length, size)))[0] * decay ** np.arange(size)
        tensor = np.moveaxis(np.tensordot(directions, tensor, (1, axis)), 0, axis)
    return (tensor / np.linalg.norm(tensor)).astype(np.float32)


def there_and_back(delta, step, *, seed=SEED, finest=None):
    analysis = TUCKER.analyse(delta, step if finest is None else finest)
    parts = coded(TUCKER.encode(analysis, step, seed))
    return decoded(TUCKER, parts, ("F32", delta.shape)), parts


def squares(values):
    return float(np.square(values, dtype=np.float64).sum())


SHAPES = st.sampled_from([(2, 3, 4), (8, 5, 6), (6, 6, 3, 3), (2, 2, 2), (9, 3, 3), (4, 1, 5, 1, 6)])


@settings(deadline=None, max_examples=40)
@given(st.data(), st.floats(-30, 30))
def test_any_delta_comes_back_at_a_fine_step(data, scale):
    shape = data.draw(SHAPES)
    elements = st.floats(-1, 1, width=32)
    delta = data.draw(arrays.arrays(np.float32, tucker.tensor_shape(shape), elements=elements)) * np.float32(2.0**scale)
    encoding = TUCKER.encode(TUCKER.analyse(delta, 1e-300), 1e-300, SEED)
    back = decoded(TUCKER, coded(encoding), ("F32", shape))
    assert (back.shape, back.dtype) == (shape, np.float32)
    assert squares(back.reshape(delta.shape) - delta) <= 1e-9 * squares(delta)
    # The difference of two energies, one of which comes from fp32.
    assert 0 <= encoding.distortion <= 2e-6 * squares(delta)


@settings(deadline=None, max_examples=15)
@given(SHAPES, st.integers(0, 1000), st.floats(0.6, 1), st.floats(0.01, 0.5))
def test_the_error_is_what_the_distortion_says(shape, seed, decay, fraction):
    folded = tucker.tensor_shape(shape)
    delta = multilinear(folded, folded, decay, seed)
    step = fraction / math.sqrt(delta.size)
    analysis, errors = TUCKER.analyse(delta, step), []
    for key in range(10):
        encoding = TUCKER.encode(analysis, step, Seed((str(key),)))
        errors.append(squares(decoded(TUCKER, coded(encoding), ("F32", folded)) - delta))
    # Ten draws; of the smallest tensors each has a dozen of numbers.
    assert np.mean(errors) / 2 < encoding.distortion < 2 * np.mean(errors)


@pytest.mark.parametrize(("shape", "step"), [((8, 40, 30), 0.004), ((20, 16, 3, 3), 0.01), ((8, 40, 30), 0.02)])
def test_the_distortion_announced_is_the_one_that_is_met(shape, step):
    delta = multilinear(shape, shape, 0.93)
    analysis = TUCKER.analyse(delta, step)
    backs = [decoded(TUCKER, coded(TUCKER.encode(analysis, step, Seed((str(key),)))), ("F32", shape)) for key in "abcd"]
    met = np.mean([squares(back - delta) for back in backs])
    assert met == pytest.approx(TUCKER.encode(analysis, step, SEED).distortion, rel=0.1)


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 1000), st.sampled_from([(4, 20, 15), (12, 10, 3, 3)]))
def test_rounding_is_unbiased(seed, shape):
    delta = multilinear(shape, [min(length, 4) for length in shape], 0.7, seed)
    step = 0.03
    analysis = TUCKER.analyse(delta, 0.001)
    backs = np.array(
        [
            decoded(TUCKER, coded(TUCKER.encode(analysis, step, Seed((str(key),)))), ("F32", delta.shape))
            for key in range(150)
        ]
    )
    error = [squares(back - delta) for back in backs]
    # The mean of 150 draws has a 150th of their error; what is left out is in both.
    assert squares(backs.mean(axis=0) - delta) < 0.03 * np.mean(error) + 0.003
    shares = (backs * delta).sum(axis=tuple(range(1, backs.ndim))) / squares(delta)
    assert abs(shares.mean() - 1) < 5 * shares.std() / math.sqrt(len(shares)) + 5e-3


def test_directions_and_norms_are_those_of_the_singular_value_decomposition():
    delta = multilinear((6, 20, 15), (6, 20, 15), 0.8)
    analysis = TUCKER.analyse(delta, 1e-6)
    assert analysis["delta"] is delta
    for axis in range(3):
        factor, norms = analysis[f"factor{axis}"], analysis[f"norms{axis}"]
        np.testing.assert_allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-5)
        unfolded = np.moveaxis(delta, axis, 0).reshape(delta.shape[axis], -1)
        np.testing.assert_allclose(norms, np.linalg.svd(unfolded, compute_uv=False), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(factor.T @ unfolded, axis=1), norms[: factor.shape[1]], atol=1e-5)


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_a_projection_and_its_product_are_the_tensor(axes):
    delta = multilinear((6, 20, 15), (6, 20, 15), 0.8)
    analysis = TUCKER.analyse(delta, 1e-9)
    rebuilt = multilinear_module.projected(delta, {axis: analysis[f"factor{axis}"] for axis in axes})
    for axis in axes:
        rebuilt = np.moveaxis(np.tensordot(analysis[f"factor{axis}"], rebuilt, (1, axis)), 0, axis)
    np.testing.assert_allclose(rebuilt, delta, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (4, 20, 30)])
@pytest.mark.parametrize("block", [7, 90, 1 << 20])
def test_blocks_do_not_matter_to_the_analysis_and_the_core(monkeypatch, block, shape):
    delta = multilinear(shape, shape, 0.8)
    expected = TUCKER.analyse(delta, 1e-3)
    axes = {axis: expected[f"factor{axis}"] for axis in range(len(shape))}
    core = multilinear_module.projected(delta, axes)
    monkeypatch.setattr(multilinear_module, "_BLOCK", block)
    found = TUCKER.analyse(delta, 1e-3)
    for axis in range(len(shape)):
        np.testing.assert_allclose(found[f"norms{axis}"], expected[f"norms{axis}"], atol=1e-6)
    np.testing.assert_allclose(multilinear_module.projected(delta, axes), core, atol=1e-6)


def test_axes_without_structure_have_no_factor():
    shared = multilinear((8, 64, 48), (8, 4, 48), 1.0)
    parameters = TUCKER.encode(TUCKER.analyse(shared, 0.001), 0.001, SEED).parameters
    assert 1 in parameters["axes"]
    assert 2 not in parameters["axes"]
    assert tucker.ranks(parameters)[parameters["axes"].index(1)] == 4


def test_the_callers_tensorly_stays_as_it_is():
    import tensorly

    TUCKER.analyse(normal(4, 5, 6), 0.1)
    assert tensorly.get_backend() == "numpy"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5, 6), (4, 5, 6)),
        ((1, 4, 5, 1, 6), (4, 5, 6)),
        ((16, 8, 3, 3), (16, 8, 3, 3)),
        ((16, 8, 1, 1), None),
        ((4, 5), None),
        ((4, 5, 6, 2, 2), None),
        ((100, 3, 3), None),
        ((9, 3, 3), (9, 3, 3)),
        ((0, 3, 3), None),
        ((), None),
    ],
)
def test_which_shapes_it_is_for(shape, expected):
    assert tucker.tensor_shape(shape) == expected


def offers(delta, step):
    """Costs of low rank on the folded matrix, and of Tucker."""
    views = [(LowRank(), delta.reshape(matrix_shape(delta.shape))), (TUCKER, delta)]
    found = [codec.encode(codec.analyse(view, step), step, SEED) for codec, view in views]
    return [Cost(encoding.distortion, 8 * coded_size(coded(encoding))) for encoding in found]


@pytest.mark.parametrize("step", [0.02, 0.005, 0.001])
@pytest.mark.parametrize(("shape", "sizes"), [((8, 64, 48), (3, 10, 8)), ((48, 32, 3, 3), (8, 8, 2, 2))])
def test_it_wins_where_axes_share_their_structure(shape, sizes, step):
    costs = offers(multilinear(shape, sizes), step)
    assert cheapest(costs, step) == 1
    assert costs[1].bits < 0.75 * costs[0].bits


@pytest.mark.parametrize("step", [0.02, 0.005, 0.001])
def test_it_loses_where_only_the_matrix_has_low_rank(step):
    matrix = normal(8 * 64, 4) @ normal(4, 48, seed=1)
    costs = offers((matrix / np.linalg.norm(matrix)).reshape(8, 64, 48), step)
    assert cheapest(costs, step) == 0


def test_one_seed_gives_one_result():
    delta = multilinear((8, 20, 15), (8, 20, 15))
    chunks = [there_and_back(delta, 0.01, seed=Seed((key,)))[1][1] for key in "aab"]
    assert chunks[0] == chunks[1] != chunks[2]


def test_a_coarse_step_after_a_fine_analysis_is_as_good_as_after_a_coarse_one():
    delta = multilinear((8, 40, 30), (8, 40, 30), 0.9)
    (fine, parts), (coarse, others) = (there_and_back(delta, 0.01, finest=finest) for finest in (1e-4, 0.01))
    assert parts[0] == others[0]
    np.testing.assert_allclose(fine, coarse, atol=0.01)


def test_dither_makes_less_noise_than_rounding_at_random_in_fewer_bytes(monkeypatch):
    """Of everything that is not far below a step."""
    delta = multilinear((8, 40, 30), (8, 40, 30), 0.9)
    back, parts = there_and_back(delta, 0.01)
    assert "dither" in parts[0]
    assert {name.count(".") for name in parts[2].to_json()} == {1, 2}
    monkeypatch.setattr(tucker, "UNIT", 1 << 40)
    at_random, others = there_and_back(delta, 0.01)
    assert "dither" not in others[0]
    assert squares(back - delta) < 0.8 * squares(at_random - delta)
    assert coded_size(parts) < coded_size(others)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_step_at_which_a_slice_is_only_just_kept(axis):
    delta = normal(6, 9, 8)
    norms = TUCKER.analyse(delta, 1e-3)[f"norms{axis}"]
    for norm in norms.tolist():
        for step in norm / 0.3 / delta.size**0.25 * (1 + np.arange(-4, 5) * 2.0**-26):
            there_and_back(delta, step)


def test_error_falls_and_bytes_and_ranks_grow_as_the_step_falls():
    delta = multilinear((8, 40, 30), (8, 40, 30), 0.9)
    results = [there_and_back(delta, step) for step in (0.3, 0.03, 0.01, 0.003, 0.001)]
    errors = [squares(back - delta) for back, _ in results]
    sizes = [coded_size(parts) for _, parts in results]
    ranks = [tucker.ranks(parts[0]) for _, parts in results]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01
    assert sizes == sorted(sizes)
    assert ranks[0] == ()
    assert [sum(found) for found in ranks[1:3]] == sorted(sum(found) for found in ranks[1:3])


@pytest.mark.parametrize(("delta", "step"), [(np.zeros((4, 5, 6), np.float32), 0.1), (normal(4, 5, 6), 1e9)])
def test_nothing_to_keep(delta, step):
    encoding = TUCKER.encode(TUCKER.analyse(delta, step), step, SEED)
    assert encoding.parameters == {"axes": []}
    assert encoding.distortion == pytest.approx(squares(delta), rel=1e-5)
    back = decoded(TUCKER, coded(encoding), ("F32", (4, 5, 6)))
    assert (back.shape, back.dtype, back.any()) == ((4, 5, 6), np.float32, False)


def test_an_analysis_for_no_step_at_all():
    analysis = TUCKER.analyse(normal(4, 5, 6), math.inf)
    assert all(analysis[f"factor{axis}"].size == 0 for axis in range(3))
    assert TUCKER.encode(analysis, 1e9, SEED).parameters == {"axes": []}


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1, 1e15])
def test_any_scale(scale):
    delta = (multilinear((8, 20, 15), (4, 5, 5)) * scale).astype(np.float32)
    back, _ = there_and_back(delta, 1e-3 * scale)
    assert np.abs(back.astype(np.float64) - delta).max() < 0.05 * np.abs(delta).max() + 3e-44


@pytest.mark.parametrize(
    "delta", [multilinear((8, 20, 15), (1, 1, 1)), normal(8, 20, 15), normal(10, 9, 3, 3), np.eye(64).reshape(64, 8, 8)]
)
def test_however_fine_the_step_little_is_lost(delta):
    delta = delta.astype(np.float32)
    back, parts = there_and_back(delta, 1e-300)
    assert squares(back - delta) < 1e-8 * squares(delta)
    assert parts[1] == there_and_back(delta, 1e-200)[1][1]
    assert "dither" not in parts[0]


def in_plain_sums(parts, shape):
    """What decoding should give, from float64 sums that round."""
    parameters, chunks, tables = parts
    readers = [ChunkReader(chunk, tables) for chunk in chunks]
    dither = Dither.announced(parameters)
    factors = tucker._read_factors(readers[0], parameters, shape, dither)
    ((_, levels),) = tucker._core_blocks(parameters, shape)
    core = np.zeros(levels.shape)
    for level in np.unique(levels).tolist():
        name, count = f"tucker.{level}", int((levels == level).sum())
        if dither is None or level < -3:
            core[levels == level] = (1 if dither is None else UNIT) * readers[1].take(name, count)
        else:
            core[levels == level] = read_groups(readers[1], name, dither.take(count), fine=level < 1)
    for axis, counts in zip(factors, parameters["slices"], strict=True):
        scaled = factors[axis] * tucker._growth(counts)
        core = np.moveaxis(np.tensordot(scaled, core, (1, axis)), 0, axis)
    return core * parameters["outer"]


@pytest.mark.parametrize("sizes", [(4, 5, 6), (4, 20, 6), (2, 20, 15), (4, 20, 15)])
def test_decoding_is_the_product_of_core_and_factors(sizes):
    parts = there_and_back(multilinear((4, 20, 15), sizes, 0.9), 1e-4)[1]
    back = decoded(TUCKER, parts, ("F32", (4, 20, 15)))
    np.testing.assert_allclose(back, in_plain_sums(parts, (4, 20, 15)), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dither", [False, True])
def test_streams_that_are_no_decomposition_decode_as_well(dither):
    streams = tucker_streams(dither=dither)
    expected = in_plain_sums(streams, STREAMS)
    back = decoded(TUCKER, streams, ("F32", STREAMS))
    np.testing.assert_allclose(back, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


@pytest.mark.parametrize("block", [1, 50, 77, 4000])
def test_blocks_do_not_matter_to_decoding(monkeypatch, block):
    expected = decoded(TUCKER, tucker_streams(), ("F32", STREAMS))
    monkeypatch.setattr(multilinear_module, "_BLOCK", block)
    assert decoded(TUCKER, tucker_streams(), ("F32", STREAMS)).tobytes() == expected.tobytes()


def test_a_large_core_takes_several_chunks(monkeypatch):
    monkeypatch.setattr(tucker, "_BLOCK", 500)
    delta = normal(8, 20, 15)
    back, parts = there_and_back(delta, 0.01)
    assert len(parts[1]) == 1 + 8
    assert squares(back - delta) < 0.01 * squares(delta)
    with pytest.raises(StopIteration):
        decoded(TUCKER, (parts[0], parts[1][:-1], parts[2]), ("F32", delta.shape))


STREAMS = (20, 6, 60, 50)
DECODE = """
import hashlib, sys
from skillpack.codecs import Tucker
from tests.codecs.coding import decoded, tucker_streams
back = decoded(Tucker(), tucker_streams(), ("F32", (20, 6, 60, 50)))
assert not {"torch", "tensorly", "scipy"} & set(sys.modules)
sys.stdout.write(hashlib.sha256(back.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_decoding_needs_numpy_only_and_threads_do_not_matter(threads):
    environment = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], str(threads))
    result = subprocess.run(
        [sys.executable, "-c", DECODE],
        env={"PYTHONPATH": ".:store", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == FROZEN


@pytest.mark.parametrize("dither", [False, True])
def test_decoded_bits_are_what_they_always_were(dither):
    """If this fails, skills packed before would install other bytes than their receipts say."""
    back = decoded(TUCKER, tucker_streams(dither=dither), ("F32", (20, 6, 60, 50)))
    assert np.isfinite(back).all()
    assert hashlib.sha256(back.tobytes()).hexdigest() == (FROZEN_WITH_DITHER if dither else FROZEN)


FROZEN = "ed14220657276a23ca3099b3e2dc37ba6d0924d46b6cc33ba3e26dcb9ab7ab22"
FROZEN_WITH_DITHER = "29df10659d20216a2bf37dd09467b2f2a304402ecfba5ec942182e83ed81e9e3"


def test_the_order_of_sums_does_not_matter():
    """Columns may come in any order, those of one class."""
    random = np.random.default_rng(0)
    core = random.integers(-(2**30), 2**30, (5, 6, 7)).astype(np.float64)
    factors = {axis: random.integers(-1000, 1000, (9, core.shape[axis])).astype(np.float64) for axis in (0, 1)}
    gains = {0: tucker._growth([2, 0, 3]), 1: tucker._growth([1, 5])}
    expected = multilinear_module.multiplied(core.copy(), factors, gains, 0.1)
    order = [1, 0, 4, 2, 3]
    turned = multilinear_module.multiplied(core[order], {**factors, 0: factors[0][:, order]}, gains, 0.1)
    assert turned.tobytes() == expected.tobytes()
    assert expected.shape == (9, 9, 7)


def small_parts():
    parts = there_and_back(multilinear((4, 20, 15), (3, 5, 4)), 0.01)[1]
    assert parts[0]["axes"] == [0, 1, 2]
    return parts


def test_signs_do_not_matter_to_the_bits_that_are_kept():
    core, factors = -np.full((3, 4, 5), 2.0**30) - np.arange(5), {1: np.arange(24.0).reshape(6, 4)}
    core[0, 0, 0] = 1
    positive, negative = (
        multilinear_module.multiplied(sign * core, factors, {1: tucker._growth([1, 3])}, 0.1) for sign in (-1, 1)
    )
    assert positive.tobytes() == (-negative).tobytes()


def test_levels_say_how_far_entries_spread():
    delta = multilinear((8, 40, 30), (8, 40, 30), 0.85)
    encoding = TUCKER.encode(TUCKER.analyse(delta, 0.001), 0.001, SEED)
    _, core = encoding.chunks()
    found = [(int(name.split(".")[1]), symbols) for name, symbols in core if symbols.size > 50]
    assert len({level for level, _ in found}) > 4
    for level, symbols in found:
        assert 2.0**level / 2.5 < math.sqrt(np.square(symbols).mean()) < 2.5 * 2.0 ** (level + 1) + 0.5


def test_too_many_classes_are_refused():
    parameters, chunks, tables = small_parts()
    parameters["slices"][1] = [5] + [0] * 81
    with pytest.raises(DamagedSkillError, match="announces slices"):
        decoded(TUCKER, (parameters, chunks, tables), ("F32", (4, 20, 15)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("axes", [0, 1]),
        ("axes", [0, 1, 3]),
        ("axes", [0, 1, -1]),
        ("axes", [1, 0, 2]),
        ("axes", [0, 1, 1]),
        ("axes", [0, 1, 2.0]),
        ("axes", [False, 1, 2]),
        ("axes", ["0", 1, 2]),
        ("axes", {"0": 1, "1": 2, "2": 3}),
        ("axes", "abc"),
        ("axes", 3),
        ("slices", []),
        ("slices", [[1], [1]]),
        ("slices", [[1]] * 4),
        ("slices", [[5], [1], [1]]),
        ("slices", [[10**9], [1], [1]]),
        ("slices", [[0], [1], [1]]),
        ("slices", [[-1, 2], [1], [1]]),
        ("slices", [[1.0], [1], [1]]),
        ("slices", [[True], [1], [1]]),
        ("slices", [["1"], [1], [1]]),
        ("slices", [[0] * 90 + [1], [1], [1]]),
        ("slices", "abc"),
        ("slices", 3),
        ("slices", {"a": 1}),
        ("tops", [1, 2]),
        ("tops", [1, 2, 10**6]),
        ("tops", [1, 2, 3.0]),
        ("tops", None),
        ("tops", "abc"),
        ("level", 10**6),
        ("level", 1.5),
        ("level", None),
        ("level", True),
        ("outer", float("nan")),
        ("outer", float("inf")),
        ("outer", 1e300),
        ("outer", None),
        ("outer", "x"),
        ("outer", {}),
    ],
)
def test_senseless_parameters_are_refused(key, value):
    parameters, chunks, tables = small_parts()
    with pytest.raises((DamagedSkillError, TypeError, ValueError)):
        decoded(TUCKER, ({**parameters, key: value}, chunks, tables), ("F32", (4, 20, 15)))


@pytest.mark.parametrize("key", ["axes", "slices", "tops", "level", "outer"])
def test_missing_parameters_are_refused(key):
    parameters, chunks, tables = small_parts()
    del parameters[key]
    with pytest.raises(KeyError):
        decoded(TUCKER, (parameters, chunks, tables), ("F32", (4, 20, 15)))


@pytest.mark.parametrize("shape", [(60, 20), (1200,), (4, 20, 15, 2, 2)])
def test_a_tensor_of_another_number_of_axes_is_refused(shape):
    parts = small_parts()
    with pytest.raises(DamagedSkillError, match="of shape"):
        decoded(TUCKER, parts, ("F32", shape))


def test_products_that_could_not_be_added_exactly_are_refused():
    gains = dict.fromkeys(range(3), np.ones(4))
    factors = {0: np.ones((4, 4)), 1: np.ones((4, 4)), 2: np.full((4, 4), 2.0**50)}
    with pytest.raises(DamagedSkillError, match="too large to be added exactly"):
        multilinear_module.multiplied(np.ones((4, 4, 4)), factors, gains, 1.0)
    factors[2] /= 2**4
    assert (multilinear_module.multiplied(np.ones((4, 4, 4)), factors, gains, 1.0) == 4.0**3 * 2**46).all()


def test_lengthened_streams_are_noticed():
    parameters, (first, second), tables = small_parts()
    for chunks in ([b"\1\0\0\0" + first, second], [first, b"\1\0\0\0" + second], [first[:-1], second]):
        with pytest.raises(DamagedSkillError):
            decoded(TUCKER, (parameters, chunks, tables), ("F32", (4, 20, 15)))
    with pytest.raises(StopIteration):
        decoded(TUCKER, (parameters, [], tables), ("F32", (4, 20, 15)))


def test_it_has_its_name():
    assert isinstance(codec_named("tucker"), Tucker)
