"""The search for a step: never above the target, close below it where that is possible, and it always ends."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.codecs.protocol import Cost
from skillpack.errors import UsageError
from skillpack.packing.allocate import TOLERANCE, FinerStepNeededError, cheapest, multiplier, step_for_size


class Counted:
    """A size function that counts its calls."""

    def __init__(self, size):
        self.size = size
        self.calls = 0

    def __call__(self, step):
        assert step > 0
        self.calls += 1
        assert self.calls < 40
        return self.size(step)


def power(exponent, fixed=0.0):
    return lambda step: fixed + 1e6 * step**-exponent


@settings(deadline=None)
@given(
    st.floats(0.5, 3),
    st.floats(-10, 10).map(lambda power: 2.0**power),
    st.floats(2e3, 1e8).map(int),
    st.floats(0, 1000),
)
def test_smooth_sizes_are_met_from_any_start(exponent, start, target, fixed):
    size = Counted(power(exponent, fixed))
    step = step_for_size(size, target, start, 1e-12)
    assert size.size(step) <= target
    if fixed < 0.5 * target:
        assert size.size(step) >= (1 - TOLERANCE) * target


@given(st.floats(0.8, 2), st.floats(-4, 4).map(lambda power: 2.0**power), st.floats(1e4, 1e7).map(int))
def test_a_good_guess_is_found_in_few_rounds(exponent, factor, target):
    right = (1e6 / target) ** (1 / exponent)
    size = Counted(power(exponent))
    assert (1 - TOLERANCE) * target <= size.size(step_for_size(size, target, right * factor, right / 1e3)) <= target
    assert size.calls <= 8


@settings(deadline=None)
@given(st.floats(1.2, 4), st.integers(3000, 10**7), st.floats(-10, 10).map(lambda power: 2.0**power))
def test_sizes_that_move_in_jumps_stay_below_the_target(jump, target, start):
    def size(step):
        return 1000 + 1e6 * jump ** -math.floor(math.log(step, jump))

    step = step_for_size(Counted(size), target, start, 1e-9)
    assert size(step) <= target
    assert size(step / jump * 0.999) > target


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
def test_a_size_that_hardly_depends_on_the_step(share):
    target = 10**6
    size = Counted(lambda step: share * target + 1e6 * step**-1.2)
    assert (1 - TOLERANCE) * target <= size.size(step_for_size(size, target, 0.5, 1e-6)) <= target


def test_plateaus_with_a_cliff_between_them():
    def size(step):
        return 10_000 if step < 0.37 else 1000

    step = step_for_size(Counted(size), 5000, 1.0, 1e-6)
    assert size(step) == 1000
    assert step < 0.4


def test_a_start_below_the_finest_step_is_not_tried():
    tried = []

    def size(step):
        tried.append(step)
        return power(1)(step)

    step_for_size(size, 10**5, 1e-9, 0.01)
    assert min(tried) >= 0.01


def test_a_target_beyond_the_finest_step_asks_for_finer_analysis():
    with pytest.raises(FinerStepNeededError):
        step_for_size(power(1), 10**9, 1.0, 0.1)


def test_the_finest_step_itself_may_be_the_answer():
    assert step_for_size(power(1), int(1.01e7), 1.0, 0.1) == 0.1
    with pytest.raises(FinerStepNeededError):
        step_for_size(power(1), int(1.03e7), 1.0, 0.1)


@pytest.mark.parametrize("target", [1999, 20])
@pytest.mark.parametrize("size", [lambda step: 2000.0, lambda step: 2000 + 1e6 / step])
def test_an_impossible_target_is_refused_with_the_least_size(size, target):
    with pytest.raises(UsageError, match=rf"{target:,} bytes is not possible: 2,0\d\d is the least found") as caught:
        step_for_size(Counted(size), target, 1.0, 1e-6)
    assert "larger" in caught.value.hint


def test_the_multiplier_is_the_slope_of_a_uniform_quantiser():
    step = 0.3

    def error(bits):
        return (step * 2.0**-bits) ** 2 / 12

    slope = -(error(1e-6) - error(-1e-6)) / 2e-6
    assert multiplier(step) == pytest.approx(slope, rel=1e-5)


def test_the_cheapest_depends_on_the_step():
    costs = [Cost(0.0, 1000.0), Cost(10.0, 500.0), Cost(500.0, 0.0)]
    assert [cheapest(costs, step) for step in (0.01, 1.0, 20.0)] == [0, 1, 2]
