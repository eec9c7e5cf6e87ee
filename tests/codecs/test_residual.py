"""Low rank plus direct: together they are the delta, and smaller than either alone where both have something to say."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from skillpack.codecs import Direct, LowRank, Residual
from skillpack.codecs.noise import Seed
from skillpack.errors import DamagedSkillError
from tests.codecs import coding
from tests.codecs.coding import coded_size, decoded

RESIDUAL = Residual()
SEED = Seed(("a",))
there_and_back = partial(coding.there_and_back, codec=RESIDUAL, seed=SEED)


def spiked(rows=200, columns=150, rank=4, seed=0):
    """A few strong directions over entries that are all alike."""
    random = np.random.default_rng(seed)
    strong = random.normal(size=(rows, rank)) @ random.normal(size=(rank, columns))
    return (strong + 0.5 * random.normal(size=(rows, columns))).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6),
        elements=st.floats(-1000, 1000, width=32),
    ),
    st.floats(0.1, 1000),
)
def test_what_comes_back_is_within_a_step(delta, step):
    back, _, _ = there_and_back(delta, step)
    assert (back.shape, back.dtype) == (delta.shape, np.float32)
    assert (np.abs(back - delta) <= 1.001 * step + 1e-5 * np.abs(delta).max(initial=0)).all()


def test_it_is_right_on_average():
    delta = spiked(40, 30)
    backs = np.array([there_and_back(delta, 1.0, seed=Seed((str(key),)))[0] for key in range(200)])
    assert np.abs(backs.mean(axis=0) - delta).max() < 5 / np.sqrt(12 * 200)


def test_the_cost_announced_and_predicted_is_the_one_that_is_met():
    delta = spiked()
    for step in (0.2, 0.5, 1.0):
        back, parts, encoding = there_and_back(delta, step)
        predicted = RESIDUAL.predicted(RESIDUAL.analyse(delta, step), step)
        assert encoding.distortion == pytest.approx(np.square(back - delta).sum(), rel=0.05)
        assert predicted.distortion == pytest.approx(encoding.distortion)
        assert predicted.bits == pytest.approx(8 * coded_size(parts), rel=0.12)


def test_it_is_smaller_than_either_part_alone():
    delta = spiked()
    sizes = {}
    for codec in (RESIDUAL, Direct(), LowRank()):
        step = 0.5
        while np.square((found := there_and_back(delta, step, codec=codec))[0] - delta).mean() > 0.25 / 12:
            step *= 0.9
        sizes[codec.name] = coded_size(found[1])
    assert sizes["lowrank+direct"] < 0.95 * min(sizes["direct"], sizes["lowrank"])


def test_one_seed_gives_one_result():
    delta = spiked(50, 40)
    chunks = [there_and_back(delta, 1.0, seed=Seed((key,)))[1][1] for key in "aab"]
    assert chunks[0] == chunks[1] != chunks[2]


def test_the_parts_do_not_share_their_noise():
    parameters = there_and_back(spiked(), 0.5)[1][0]
    assert parameters["strong"]["dither"] != parameters["rest"]["dither"]


@pytest.mark.parametrize("delta", [np.zeros((30, 20), np.float32), np.full((30, 20), 3, np.float32)])
def test_no_rest_or_nothing_at_all(delta):
    back, _, _ = there_and_back(delta, 0.1)
    assert np.abs(back - delta).max() < 0.06


@pytest.mark.parametrize("key", ["strong", "rest"])
@pytest.mark.parametrize("value", [None, 1, "x", [], {}])
def test_senseless_parameters_are_refused(key, value):
    parameters, chunks, tables = there_and_back(spiked(30, 20), 0.5)[1]
    with pytest.raises((DamagedSkillError, TypeError, ValueError, KeyError)):
        decoded(RESIDUAL, ({**parameters, key: value}, chunks, tables), ("F32", (30, 20)))


def test_hostile_scales_do_no_harm():
    parameters, chunks, tables = there_and_back(spiked(30, 20), 0.5)[1]
    parameters["strong"]["outer"], parameters["rest"]["step"] = 1e300, -1e300
    assert decoded(RESIDUAL, (parameters, chunks, tables), ("F32", (30, 20))).shape == (30, 20)
