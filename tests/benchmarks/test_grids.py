from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.baselines.grids import Layout, Quantised, fit, round_to_nearest
from benchmarks.baselines.stream import Reader, Writer

ZEROS = ["grid", "free"]
LAYOUTS = st.builds(Layout, st.integers(1, 8), st.integers(1, 9), st.sampled_from(ZEROS))
SEEDS = st.integers(0, 2**31)


def some(seed, rows, columns, scale=1.0):
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(SEEDS, LAYOUTS)
def test_a_free_grid_ends_at_the_extremes_and_errs_by_half_a_step(seed, layout):
    values = some(seed, 3, 14)
    found = round_to_nearest(values, Layout(layout.bits, layout.group, "free"))
    slack = 2e-3 * values.abs().max()
    for first in range(0, 14, layout.group):
        group, rounded = values[:, first : first + layout.group], found.values()[:, first : first + layout.group]
        for end in ("amin", "amax"):
            if layout.group > 1:
                torch.testing.assert_close(getattr(rounded, end)(1), getattr(group, end)(1), atol=slack, rtol=0)
    assert ((found.values() - values).abs() <= found.grids.step() / 2 + slack).all()


@given(SEEDS, LAYOUTS)
def test_a_grid_with_zero_holds_zero_and_errs_by_a_step_at_its_ends(seed, layout):
    layout = Layout(layout.bits, layout.group, "grid")
    values = some(seed, 3, 14)
    values[:, ::3] = 0
    found = round_to_nearest(values, layout)
    assert (found.values()[values == 0] == 0).all()
    span = torch.cat([values.clamp(min=0).amax(1) - values.clamp(max=0).amin(1)])
    assert (found.grids.step() * layout.top <= 1.002 * span[:, None]).all()
    inside = (values > found.grids.low()) & (values < found.grids.low() + layout.top * found.grids.step())
    errors, slack = (found.values() - values).abs(), 2e-3 * values.abs().max()
    assert (errors <= found.grids.step() + slack).all()
    assert (errors[inside] <= found.grids.step()[inside] / 2 + slack).all()


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("values", [torch.zeros(2, 5), torch.full((2, 5), -0.25), torch.eye(2, 5) * 1e-7])
def test_groups_without_spread_are_exact(values, zero):
    layout = Layout(2, 5, zero)
    torch.testing.assert_close(round_to_nearest(values, layout).values(), values, rtol=1e-3, atol=0)


@pytest.mark.parametrize("zero", ZEROS)
def test_small_deltas_are_as_precise_as_large_ones(zero):
    large, small = (round_to_nearest(some(4, 2, 64, scale), Layout(4, 32, zero)) for scale in (1.0, 2.0**-30))
    assert torch.equal(large.codes, small.codes)
    assert torch.equal(large.values() * 2.0**-30, small.values())


def stored(quantised):
    writer = Writer()
    quantised.write(writer)
    return writer.data()


@given(SEEDS, LAYOUTS, st.integers(1, 5), st.integers(1, 20))
def test_a_matrix_comes_back_as_it_was_computed(seed, layout, rows, columns):
    found = round_to_nearest(some(seed, rows, columns), layout)
    again = Quantised.read(Reader(stored(found)), rows, columns, layout)
    assert torch.equal(again.codes, found.codes)
    assert torch.equal(again.values(), found.values())


@pytest.mark.parametrize(("zero", "start"), [("grid", 3), ("free", 16)])
def test_a_matrix_takes_its_codes_and_a_step_and_a_start_for_each_group(zero, start):
    found = round_to_nearest(some(5, 16, 200), Layout(3, 128, zero))
    assert 8 * len(stored(found)) == 32 + 16 * 2 * (16 + start) + 16 * 200 * 3


def test_a_grid_is_fitted_to_each_group_alone():
    values = some(6, 2, 8)
    values[:, 4:] *= 100
    steps = fit(values, Layout(4, 4, "free")).step()
    assert (steps[:, 4:] > 10 * steps[:, :4]).all()
