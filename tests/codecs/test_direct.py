"""The entry-wise codec: unbiased, the same bits everywhere, and quiet rows and columns cost next to nothing."""

import contextlib
import hashlib
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skillpack.codecs import Direct, direct
from skillpack.codecs.dither import Dither
from skillpack.codecs.entropy import count_all, encode_chunk
from skillpack.codecs.noise import Seed
from skillpack.errors import DamagedSkillError
from tests.codecs import coding
from tests.codecs.coding import coded, coded_size, decoded

DIRECT = Direct()
SEED = Seed(("a",))
there_and_back = partial(coding.there_and_back, codec=DIRECT, seed=SEED)
FINITE = st.floats(-1000, 1000, width=32)


def normal(*shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@settings(deadline=None, max_examples=60)
@given(
    arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), elements=FINITE),
    st.floats(0.1, 1000),
    st.sampled_from([None, 0.6]),
)
@example(np.float32([[2], [1e-38], [1e-38]]), 1.0, None)
def test_what_comes_back_is_within_a_step(delta, step, dead_zone):
    back, _, _ = there_and_back(delta, step, codec=Direct(dead_zone))
    assert (back.shape, back.dtype) == (delta.shape, np.float32)
    assert (np.abs(back - delta) <= 1.001 * step + 2e-7 * np.abs(delta).max(initial=0)).all()


@pytest.mark.parametrize("scale", [0.1, 0.5, 3.0])
def test_entries_are_met_on_average(scale):
    delta = normal(30, 20, scale=scale)
    backs = np.array([there_and_back(delta, 1.0, seed=Seed((str(key),)))[0] for key in range(300)])
    assert np.abs(backs.mean(axis=0) - delta).max() < 5 / np.sqrt(12 * 300)
    along = (backs * delta).sum(axis=(1, 2)) / np.square(delta).sum()
    assert abs(along.mean() - 1) < 5 * along.std() / np.sqrt(300)
    shrunk = there_and_back(delta, 1.0, codec=Direct(dead_zone=0.6))[0]
    assert scale > 1 or float((shrunk * delta).sum() / np.square(delta).sum()) < 0.9


@pytest.mark.parametrize("dead_zone", [None, 0.6])
@pytest.mark.parametrize("step", [0.1, 1.0, 5.0])
def test_the_distortion_announced_is_the_one_that_is_met(step, dead_zone):
    delta = normal(200, 150)
    back, _, encoding = there_and_back(delta, step, codec=Direct(dead_zone))
    assert encoding.distortion == pytest.approx(np.square(back - delta).sum(), rel=0.05)


@pytest.mark.parametrize("step", [0.1, 1.0, 5.0, 20.0])
def test_the_cost_predicted_is_the_one_that_is_met(step):
    delta = normal(300, 400) * np.exp(normal(300, 1)) * np.exp(normal(1, 400, seed=1))
    analysis = DIRECT.analyse(delta, step)
    encoding, predicted = DIRECT.encode(analysis, step, SEED), DIRECT.predicted(analysis, step)
    assert predicted.distortion == pytest.approx(encoding.distortion)
    assert predicted.bits == pytest.approx(8 * coded_size(coded(encoding)), rel=0.12)


def test_only_loud_rows_and_columns_cost():
    delta = np.zeros((2000, 640), np.float32)
    delta[[5, 700, 1999]] = normal(3, 640)
    back, parts, _ = there_and_back(delta, 0.01)
    assert coded_size(parts) < 3 * 640 * 9 / 8 + 400
    assert np.flatnonzero(back.any(axis=1)).tolist() == [5, 700, 1999]
    mixed = normal(2000, 640, scale=0.001)
    mixed[:, :6] *= 1e4
    mixed[:7] *= 1e4
    even = normal(2000, 640, scale=float(np.sqrt(np.square(mixed).mean())))
    assert coded_size(there_and_back(mixed, 1.0)[1]) < 0.1 * coded_size(there_and_back(even, 1.0)[1])


def test_no_change_at_all():
    back, parts, encoding = there_and_back(np.zeros((100, 100), np.float32), 1.0)
    assert not back.any()
    assert coded_size(parts) < 10
    assert encoding.distortion >= 0


def test_one_seed_gives_one_result():
    delta = normal(50, 40)
    chunks = [there_and_back(delta, 1.0, seed=Seed((key,)))[1][1] for key in "aab"]
    assert chunks[0] == chunks[1] != chunks[2]


def test_error_and_bytes_follow_the_step():
    delta = normal(200, 100)
    results = [there_and_back(delta, step) for step in (8, 2, 1, 0.5, 0.1, 0.01)]
    errors = [float(np.square(back - delta).sum()) for back, _, _ in results]
    sizes = [coded_size(parts) for _, parts, _ in results]
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("step", [1e-12, 1e-300, 2**-149])
@pytest.mark.parametrize("scale", [1e-40, 1.0, 1e30])
def test_however_fine_the_step_fp32_precision_is_reached_and_nothing_overflows(step, scale):
    delta = normal(20, 30, scale=scale)
    back, _, _ = there_and_back(delta, step)
    assert np.abs(back - delta).max() <= np.abs(delta).max() * 2.0**-20 + np.finfo(np.float32).tiny


@pytest.mark.parametrize("size", [30, 31, 300])
def test_many_chunks_are_written_and_read_alike(monkeypatch, size):
    monkeypatch.setattr(direct, "_CHUNK", size)
    delta = normal(40, 30)
    back, parts, _ = there_and_back(delta, 0.1)
    assert len(parts[1]) == 1 + -(-40 // (size // 30))
    assert np.abs(back - delta).max() < 0.06


def streams(dither):
    """Coded streams that do not depend on any sum."""
    random = np.random.default_rng(5)
    rows, columns = random.integers(-9, 9, 40), random.integers(-4, 4, 30)
    parameters = {"step": 0.1, "level": 2, **({"dither": 77} if dither else {})}
    offsets, found = Dither.announced(parameters), []
    for level, place in direct._segments(direct._contexts(2, rows, columns)):
        symbols = np.rint(2.0 ** (level / 2) * random.normal(size=place.stop - place.start)).astype(np.int64)
        if offsets is None:
            found.append((f"direct.{level}", symbols))
        else:
            drawn = offsets.take(symbols.size)
            found += direct.groups(f"direct.{level}", symbols, drawn, fine=direct.is_fine(level))
    chunks = [list(zip(direct._SCALES, (rows, columns), strict=True)), found]
    tables = count_all(chunks).tables()
    return parameters, [encode_chunk(chunk, tables) for chunk in chunks], tables


@pytest.mark.parametrize("dither", [True, False])
def test_decoded_bits_are_what_they_always_were(dither):
    """If this fails, skills packed before would install other bytes than their receipts say."""
    back = decoded(DIRECT, streams(dither), ("F32", (40, 30)))
    assert hashlib.sha256(back.tobytes()).hexdigest() == FROZEN[dither]


FROZEN = {
    True: "2d60517383a0ec11c751e4cb7f6d252fa9dc8d808a36f438680a09035facef09",
    False: "c16c87c93fb9b4c929c6a5d7136f096e6787dbed141941ddb69042a858d7235c",
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", float("inf")),
        ("step", float("nan")),
        ("step", None),
        ("step", "x"),
        ("step", [1.0]),
        ("level", 1.0),
        ("level", True),
        ("level", None),
        ("level", 10**9),
        ("level", -(10**400)),
        ("dither", -1),
        ("dither", 2**32),
        ("dither", None),
        ("dither", 1.0),
    ],
)
def test_senseless_parameters_are_refused(key, value):
    parameters, chunks, tables = there_and_back(normal(30, 20), 0.1)[1]
    with pytest.raises((DamagedSkillError, TypeError, ValueError)):
        decoded(DIRECT, ({**parameters, key: value}, chunks, tables), ("F32", (30, 20)))


@pytest.mark.parametrize("step", [1e308, -1e308, 0.0, -1.0])
def test_odd_steps_do_no_harm(step):
    parameters, chunks, tables = there_and_back(normal(30, 20), 0.1)[1]
    back = decoded(DIRECT, ({**parameters, "step": step}, chunks, tables), ("F32", (30, 20)))
    assert back.shape == (30, 20)


@pytest.mark.parametrize("level", [-2000, 2000])
@pytest.mark.parametrize("large", [-(2**39), 2**39])
def test_hostile_levels_name_contexts_that_are_not_there_or_leave_zeros(level, large):
    chunk = [("direct.rows", np.array([large, -large])), ("direct.columns", np.array([large]))]
    tables = count_all([chunk]).tables()
    parts = {"step": 1.0, "level": level}, [encode_chunk(chunk, tables), b""], tables
    with contextlib.suppress(DamagedSkillError):
        assert not decoded(DIRECT, parts, ("F32", (2, 1))).any()


def test_shortened_and_lengthened_streams_are_noticed():
    parameters, chunks, tables = there_and_back(normal(30, 20), 0.1)[1]
    for at in range(2):
        longer, odd = list(chunks), list(chunks)
        longer[at] = b"\1\0\0\0" + chunks[at]
        odd[at] = chunks[at][:-1]
        for spoilt in (longer, odd):
            with pytest.raises((DamagedSkillError, ValueError)):
                decoded(DIRECT, (parameters, spoilt, tables), ("F32", (30, 20)))
    with pytest.raises(StopIteration):
        decoded(DIRECT, (parameters, chunks[:1], tables), ("F32", (30, 20)))
