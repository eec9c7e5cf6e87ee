"""The low-rank codec: right on average, the same bits everywhere, and as small as predicted."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from skillpack.codecs import LowRank, lowrank
from skillpack.codecs.dither import Dither, read_groups
from skillpack.codecs.entropy import ChunkReader, count_all, encode_chunk
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.noise import Seed
from skillpack.codecs.protocol import Layout
from skillpack.errors import DamagedSkillError
from tests.codecs.coding import coded, coded_size, decoded, lowrank_streams

LOWRANK = LowRank()
SEED = Seed(("a",))


def of_rank(rank, rows, columns, decay=1.0, seed=0):
    """A matrix with singular values that fall by `decay` from 1."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.normal(size=(size, rank)))[0] for size in (rows, columns))
    return ((left * decay ** np.arange(rank)) @ right.T).astype(np.float32)


def there_and_back(delta, step, *, codec=LOWRANK, seed=SEED, finest=None):
    analysis = codec.analyse(delta.reshape(matrix_shape(delta.shape)), step if finest is None else finest)
    parts = coded(codec.encode(analysis, step, seed))
    return decoded(codec, parts, ("F32", delta.shape)), parts


def error(back, delta):
    return float(np.linalg.norm(back - delta) / np.linalg.norm(delta))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (30, 1), (1, 30), (16, 8, 3, 3), (4, 20, 30), (1, 1), (7,), ()])
def test_a_fine_step_gives_the_delta_in_any_shape(shape):
    delta = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    back, _ = there_and_back(delta, 1e-5)
    assert (back.shape, back.dtype) == (shape, np.float32)
    np.testing.assert_allclose(back, delta, atol=1e-3)


def test_the_analysis_is_the_singular_value_decomposition():
    delta = of_rank(20, 80, 50, 0.8)
    for matrix in (delta, delta.T):
        analysis = LOWRANK.analyse(matrix, 1e-4)
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(analysis["all_values"], expected, atol=1e-6)
        left, values, right = (analysis[name] for name in ("left", "values", "right"))
        np.testing.assert_allclose((left * values) @ right.T, matrix, atol=1e-3)
        for vectors in (left, right):
            np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-3)


@pytest.mark.parametrize("block", [60, 900, 1 << 21])
def test_blocks_do_not_matter_to_the_analysis(monkeypatch, block):
    monkeypatch.setattr(lowrank, "_BLOCK", block)
    delta = of_rank(20, 80, 50, 0.9)
    for matrix in (delta, delta.T):
        np.testing.assert_allclose(LOWRANK.analyse(matrix, 1e-3)["values"][:10], 0.9 ** np.arange(10), rtol=1e-5)


def test_dithered_rounding_is_unbiased():
    delta = of_rank(6, 60, 50, 0.7)
    step = 0.02
    analysis = LOWRANK.analyse(delta, 0.001)
    backs = np.array(
        [
            decoded(LOWRANK, coded(LOWRANK.encode(analysis, step, Seed((str(key),)))), ("F32", delta.shape))
            for key in range(200)
        ]
    )
    assert error(backs[0], delta) > 0.1
    assert error(backs.mean(axis=0), delta) < 0.1 * error(backs[0], delta)
    shares = (backs * delta).sum(axis=(1, 2)) / np.square(delta).sum()
    assert abs(shares.mean() - 1) < 4 * shares.std() / np.sqrt(len(shares)) + 1e-3


@pytest.mark.parametrize("step", [0.05, 0.005, 0.0005])
def test_the_cost_predicted_is_the_one_that_is_met(step):
    delta = of_rank(50, 200, 150, 0.93)
    analysis = LOWRANK.analyse(delta, step)
    predicted = LOWRANK.predicted(analysis, step)
    encodings = [LOWRANK.encode(analysis, step, Seed((str(key),))) for key in range(50)]
    assert predicted.distortion == pytest.approx(np.mean([one.distortion for one in encodings]), rel=2e-3)
    assert predicted.bits == pytest.approx(8 * coded_size(coded(encodings[0])), rel=0.12)


def weak(step, rows=60, columns=50, rank=40):
    """A matrix all of whose columns are drawn at a step, the strongest nearly for certain."""
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.normal(size=(size, rank)))[0] for size in (rows, columns))
    values = step * (rows * columns) ** 0.25 * np.linspace(0.48, 0.16, rank)
    return ((left * values) @ right.T).astype(np.float32), values


def test_weak_columns_are_drawn_and_right_on_average():
    step = 0.02
    delta, values = weak(step)
    analysis, seeds = LOWRANK.analyse(delta, step), [Seed((str(key),)) for key in range(400)]
    parts = [coded(LOWRANK.encode(analysis, step, seed)) for seed in seeds]
    expected = float(values.sum()) / LOWRANK._least(delta.shape, step)
    ranks = [lowrank.rank(parameters) for parameters, _, _ in parts]
    assert LOWRANK._least(delta.shape, step) == pytest.approx(0.5 * step * delta.size**0.25, rel=0.19)
    assert {*ranks} == {int(expected), int(expected) + 1}
    assert np.mean(ranks) == pytest.approx(expected, abs=0.1)
    backs = np.array([decoded(LOWRANK, one, ("F32", delta.shape)) for one in parts])
    assert error(backs[0], delta) > 1
    assert error(backs.mean(axis=0), delta) < 1.5 * error(backs[0], delta) / np.sqrt(len(seeds))
    found = np.mean(np.square(backs - delta, dtype=np.float64).sum(axis=(1, 2)))
    announced = np.mean([LOWRANK.encode(analysis, step, seed).distortion for seed in seeds])
    assert found == pytest.approx(announced, rel=0.02)
    assert LOWRANK.predicted(analysis, step).distortion == pytest.approx(announced, rel=0.02)


def test_drawing_weak_columns_has_less_noise_in_as_many_bytes():
    step = 0.02
    delta, _ = weak(step, 300, 200, 150)
    found = {}
    for certain in (0.0, 0.5):
        codec = LowRank(certain=certain)
        encoding = codec.encode(codec.analyse(delta, step), step, SEED)
        found[certain] = encoding.distortion, coded_size(coded(encoding))
    assert found[0.5][0] < 0.75 * found[0.0][0]
    assert found[0.5][1] < found[0.0][1]


def test_columns_of_some_strength_are_all_kept():
    delta = of_rank(30, 60, 50, 0.97)
    parameters = LOWRANK.encode(LOWRANK.analyse(delta, 0.01), 0.01, SEED).parameters
    assert 0.5 * 0.01 * delta.size**0.25 < 0.97**29
    assert lowrank.rank(parameters) == 30


@pytest.mark.parametrize("dead_zone", [None, 0.5])
def test_coefficients_are_moved_by_what_is_asked_for(dead_zone):
    """Those of columns that were not drawn stay where they are."""
    step = 0.02
    delta, _ = weak(step)
    codec = LowRank(dead_zone=dead_zone)
    analysis = codec.analyse(delta, step)
    before = codec.factors(analysis, step, SEED)
    random = np.random.default_rng(1)
    moves = [random.normal(0, 20, side.shape).astype(np.float32) for side in (before.left, before.right)]
    moved = codec.moved(analysis, step, SEED, *moves)
    after = codec.factors(moved, step, SEED)
    np.testing.assert_array_equal(after.weights, before.weights)
    for new, old, move in zip((after.left, after.right), (before.left, before.right), moves, strict=True):
        assert np.abs(new - old - move).max() <= 1.07
    changed = (moved["left"] != analysis["left"]).any(axis=0)
    assert changed.sum() == before.weights.size < changed.size or dead_zone is not None


@pytest.mark.parametrize("rank", [1, 5, 30, 45])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_a_product_is_analysed_as_the_matrix_it_is(rank, shape):
    random = np.random.default_rng(0)
    left, right = random.normal(size=(shape[0], rank)), random.normal(size=(rank, shape[1]))
    found, wanted = LOWRANK.analyse_product(left, right, 1e-2), LOWRANK.analyse((left @ right).astype(np.float32), 1e-2)
    size = min(rank, *shape)
    assert found["all_values"].shape == (size,)
    np.testing.assert_allclose(found["all_values"], wanted["all_values"][:size], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose((found["left"] * found["values"]) @ found["right"].T, left @ right, atol=1e-3)
    assert all(array.dtype == np.float32 for array in found.values())


def test_factors_of_nothing_are_analysed_as_no_change():
    analysis = LOWRANK.analyse_product(np.zeros((30, 4)), np.ones((4, 20)), 1e-9)
    assert LOWRANK.encode(analysis, 1e-6, SEED).parameters == {"columns": []}


def test_a_dead_zone_shrinks():
    delta = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32)
    back, _ = there_and_back(delta, 0.6, codec=LowRank(keep=1.0, dead_zone=0.6))
    assert float((back * delta).sum() / np.square(delta).sum()) < 0.95


def test_one_seed_gives_one_result():
    delta = of_rank(10, 60, 50, 0.9)
    chunks = [there_and_back(delta, 0.01, seed=Seed((key,)))[1][1] for key in "aab"]
    assert chunks[0] == chunks[1] != chunks[2]


def test_a_coarse_step_after_a_fine_analysis_is_the_same_as_after_a_coarse_one():
    delta = of_rank(40, 60, 50, 0.8)
    fine, coarse = (there_and_back(delta, 0.01, finest=finest) for finest in (1e-4, 0.01))
    assert fine[1][1] == coarse[1][1]


def test_error_falls_and_bytes_grow_as_the_step_falls():
    delta = of_rank(50, 100, 80, 0.93)
    results = [there_and_back(delta, step) for step in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)]
    errors = [error(back, delta) for back, _ in results]
    sizes = [coded_size(parts) for _, parts in results]
    ranks = [lowrank.rank(parts[0]) for _, parts in results]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05
    assert sizes == sorted(sizes)
    assert ranks == sorted(ranks)
    assert ranks[0] < ranks[-1]


def test_the_distortion_announced_is_the_one_that_is_met():
    delta = of_rank(50, 200, 150, 0.93)
    for step in (0.03, 0.003):
        encoding = LOWRANK.encode(LOWRANK.analyse(delta, step), step, SEED)
        back = decoded(LOWRANK, coded(encoding), ("F32", delta.shape))
        assert 0.5 < float(np.square(back - delta).sum()) / encoding.distortion < 2


def test_a_delta_of_rank_one_costs_little():
    _, parts = there_and_back(of_rank(1, 500, 400), 1e-3)
    assert lowrank.rank(parts[0]) == 1
    assert coded_size(parts) < 900 * 8.5 / 8


def test_no_change_at_all():
    back, parts = there_and_back(np.zeros((30, 20), np.float32), 0.1)
    assert parts[:2] == ({"columns": []}, [])
    assert (back.shape, back.dtype) == ((30, 20), np.float32)
    assert not back.any()


def test_a_step_that_leaves_nothing():
    delta = of_rank(5, 30, 20)
    encoding = LOWRANK.encode(LOWRANK.analyse(delta, 1e9), 1e9, SEED)
    assert encoding.parameters == {"columns": []}
    assert encoding.distortion == pytest.approx(np.square(delta).sum(), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1, 1e30])
def test_any_scale(scale):
    delta = (of_rank(8, 40, 30, 0.9) * scale).astype(np.float32)
    back, _ = there_and_back(delta, 1e-3 * scale)
    assert np.abs(back.astype(np.float64) - delta).max() < 0.01 * np.abs(delta).max() + 3e-44


@pytest.mark.parametrize(
    "delta", [of_rank(1, 30, 20), of_rank(20, 30, 20), of_rank(20, 30, 20, 0.1), np.eye(64, dtype=np.float32)]
)
def test_however_fine_the_step_sums_stay_exact(delta):
    back, parts = there_and_back(delta, 1e-300)
    assert error(back, delta) < 1e-3
    assert parts[1] == there_and_back(delta, 1e-200)[1][1]


@pytest.mark.parametrize(("decay", "step"), [(0.97, 0.02), (0.99, 0.005), (0.9, 0.001)])
def test_bytes_are_close_to_the_predicted(decay, step):
    delta = of_rank(200, 400, 300, decay)
    _, parts = there_and_back(delta, step)
    predicted = LOWRANK.predicted(LOWRANK.analyse(delta, step), step).bits / 8
    assert 0.85 < coded_size(parts) / predicted < 1.15


def parts_of(delta, step=0.01):
    return there_and_back(delta, step)[1]


def test_row_blocks_do_not_matter_to_decoding(monkeypatch):
    delta = of_rank(60, 200, 150, 0.95)
    parts = parts_of(delta)
    expected = decoded(LOWRANK, parts, ("F32", delta.shape))
    for block in (1, 150, 151, 7 * 150, 10**6):
        monkeypatch.setattr(lowrank, "_BLOCK", block)
        assert decoded(LOWRANK, parts, ("F32", delta.shape)).tobytes() == expected.tobytes()


def test_decoding_is_exact_integer_arithmetic():
    delta = of_rank(30, 40, 30, 0.8)
    parameters, chunks, tables = parts = parts_of(delta, 1e-4)
    reader, dither = ChunkReader(chunks[0], tables), Dither(parameters["dither"])
    sides = []
    for entries in delta.shape:
        rows = []
        for level, first, last in lowrank._runs(parameters, entries):
            context, offsets = lowrank._context(level, entries), dither.take(entries * (last - first))
            symbols = read_groups(reader, context, offsets, fine=lowrank._fine(level, entries))
            rows += [(level, column) for column in symbols.reshape(last - first, entries).tolist()]
        sides.append(rows)
    expected = np.zeros(delta.shape, object)
    for (level, left), (_, right) in zip(*sides, strict=True):
        expected += int(lowrank._inner(parameters["top"] - level)) * np.outer(
            np.array(left, object), np.array(right, object)
        )
    assert max(abs(value) for value in expected.flat) > 2**30
    exact = (expected.astype(np.float64) * parameters["outer"]).astype(np.float32)
    assert decoded(LOWRANK, parts, ("F32", delta.shape)).tobytes() == exact.tobytes()


DECODE = """
import hashlib, sys
import numpy as np
from skillpack.codecs import LowRank
from tests.codecs.coding import decoded, lowrank_streams
back = decoded(LowRank(), lowrank_streams(), ("F32", (300, 200)))
sys.stdout.write(hashlib.sha256(back.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_the_linear_algebra_do_not_matter_to_decoding(threads):
    back = decoded(LOWRANK, lowrank_streams(), ("F32", (300, 200)))
    environment = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], str(threads))
    result = subprocess.run(
        [sys.executable, "-c", DECODE],
        env={"PYTHONPATH": ".:store", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == hashlib.sha256(back.tobytes()).hexdigest()


@pytest.mark.parametrize("dead_zone", [None, 0.5])
def test_many_symbols_take_several_chunks(monkeypatch, dead_zone):
    delta, codec = of_rank(60, 300, 200, 0.97), LowRank(dead_zone=dead_zone)
    whole, one = there_and_back(delta, 1e-3, codec=codec)
    monkeypatch.setattr(lowrank, "_CHUNK", 4000)
    divided, several = there_and_back(delta, 1e-3, codec=codec)
    assert (len(one[1]), len(several[1]) > 3) == (1, True)
    assert np.linalg.norm(divided - delta) == pytest.approx(np.linalg.norm(whole - delta), rel=0.1)
    if dead_zone is not None:
        assert np.array_equal(divided, whole)


def test_integers_of_any_size_come_back():
    """Those that exceed 16 bits too."""
    delta = of_rank(20, 30, 20, 0.5)
    back, _ = there_and_back(delta, 1e-7, codec=LowRank(dead_zone=0.5))
    assert np.abs(back - delta).max() < 1e-4 * np.abs(delta).max()


def test_decoded_bits_are_what_they_always_were():
    """If this fails, skills packed before would install other bytes than their receipts say."""
    back = decoded(LOWRANK, lowrank_streams(), ("F32", (300, 200)))
    assert hashlib.sha256(back.tobytes()).hexdigest() == FROZEN


FROZEN = "ff35f59fb469de05afc121d7d83daccfb3ca5c5ebe41152836384562453e088a"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("columns", [1] * 100),
        ("columns", [10**6]),
        ("columns", [-1, 2]),
        ("columns", [1.5]),
        ("columns", [True]),
        ("columns", ["1"]),
        ("columns", "1"),
        ("columns", {"a": 1}),
        ("columns", 3),
        ("columns", [[1]]),
        ("columns", [0] * 90 + [1]),
        ("top", 10**9),
        ("top", 1.5),
        ("top", 3.0),
        ("top", "3"),
        ("top", None),
        ("top", True),
        ("top", float("nan")),
        ("outer", float("inf")),
        ("outer", float("nan")),
        ("outer", None),
        ("outer", "x"),
        ("outer", [1.0]),
        ("outer", {}),
        ("dither", -1),
        ("dither", 2**32),
        ("dither", 1.0),
        ("dither", True),
        ("dither", None),
        ("dither", "1"),
    ],
)
def test_senseless_parameters_are_refused(key, value):
    parameters, chunks, tables = parts_of(of_rank(5, 30, 20, 0.5))
    with pytest.raises((DamagedSkillError, TypeError, ValueError)):
        decoded(LOWRANK, ({**parameters, key: value}, chunks, tables), ("F32", (30, 20)))


@pytest.mark.parametrize("key", ["columns", "top", "outer"])
def test_missing_parameters_are_refused(key):
    parameters, chunks, tables = parts_of(of_rank(5, 30, 20, 0.5))
    del parameters[key]
    with pytest.raises(KeyError):
        decoded(LOWRANK, (parameters, chunks, tables), ("F32", (30, 20)))


def test_products_that_could_not_be_added_exactly_are_refused():
    values = np.full(8, 2**30)
    chunk = [("lowrank.0", values), ("lowrank.0", values)]
    tables = count_all([chunk]).tables()
    parameters = {"outer": 1.0, "top": 3, "columns": [1]}
    with pytest.raises(DamagedSkillError, match="too large to be added exactly"):
        LOWRANK.decode(
            parameters,
            iter([ChunkReader(encode_chunk(chunk, tables), tables)]),
            Layout("F32", (8, 8)),
            None,
        )


def test_shortened_and_lengthened_streams_are_noticed():
    delta = of_rank(5, 30, 20, 0.5)
    parameters, (chunk,), tables = parts_of(delta)
    expected = decoded(LOWRANK, (parameters, [chunk], tables), ("F32", (30, 20)))
    with pytest.raises(DamagedSkillError):
        decoded(LOWRANK, (parameters, [b"\1\0\0\0" + chunk], tables), ("F32", (30, 20)))
    with pytest.raises(DamagedSkillError):
        decoded(LOWRANK, (parameters, [chunk[:-1]], tables), ("F32", (30, 20)))
    for cut in (chunk[4:], chunk[:40]):
        try:
            back = decoded(LOWRANK, (parameters, [cut], tables), ("F32", (30, 20)))
        except (DamagedSkillError, ValueError):
            continue
        assert (back != expected).any()
    with pytest.raises(StopIteration):
        decoded(LOWRANK, (parameters, [], tables), ("F32", (30, 20)))


def factors_of(codec, parts, shape):
    parameters, chunks, tables = parts
    return codec.decode_factors(parameters, iter([ChunkReader(chunk, tables) for chunk in chunks]), shape)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (30, 1), (1, 30), (300, 200)])
@pytest.mark.parametrize("codec", [LOWRANK, LowRank(dead_zone=0.6)], ids=["dithered", "dead zone"])
@pytest.mark.parametrize("step", [1e-4, 3e-2])
def test_factors_multiply_to_the_decoded_delta(shape, codec, step):
    delta = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    analysis = codec.analyse(delta, step)
    encoding = coded(codec.encode(analysis, step, SEED))
    expected = decoded(codec, encoding, ("F32", shape))
    found = factors_of(codec, encoding, shape)
    assert {found.rows.dtype, found.columns.dtype} <= {np.dtype(np.int16), np.dtype(np.float32)}
    assert step < 1e-3 or found.rows.dtype == found.columns.dtype == np.int16
    left, right = found.left, found.right
    terms = np.abs(left).astype(np.float64) @ np.abs(right).T.astype(np.float64)
    assert (np.abs(left.astype(np.float64) @ right.T.astype(np.float64) - expected) <= 2.0**-22 * terms).all()


def test_a_delta_of_nothing_has_no_factors():
    encoding = coded(LOWRANK.encode(LOWRANK.analyse(np.zeros((5, 7), np.float32), 1e-3), 1e-3, SEED))
    factors = factors_of(LOWRANK, encoding, (5, 7))
    assert (factors.left.shape, factors.right.shape, factors.rank) == ((5, 0), (7, 0), 0)
