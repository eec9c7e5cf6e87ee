from __future__ import annotations

import pytest
import torch

from benchmarks.baselines.gptq import DAMPING, gptq
from benchmarks.baselines.grids import Layout, Quantised, fit, round_to_nearest


def moment_of(inputs, random):
    """Second moment of inputs that go together, as those of a layer do."""
    mixed = torch.randn(inputs, inputs, generator=random) * torch.linspace(0.1, 3, inputs)
    rows = torch.randn(4 * inputs, inputs, generator=random) @ mixed
    return rows.T @ rows / len(rows)


def cost(error, moment):
    return float(torch.trace(error @ moment @ error.T))


def rounded(values, layout, moment):
    grids = fit(values, layout)
    return Quantised(grids, gptq(values, grids.step(), grids.low(), layout.top, moment))


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("zero", ["grid", "free"])
@pytest.mark.parametrize("inputs", [40, 300])
def test_gptq_beats_rounding_to_nearest_where_inputs_go_together(bits, zero, inputs, random):
    values, moment = torch.randn(12, inputs, generator=random), moment_of(inputs, random)
    layout = Layout(bits, 128, zero)
    ours = cost(rounded(values, layout, moment).values() - values, moment)
    assert ours < 0.7 * cost(round_to_nearest(values, layout).values() - values, moment)


def test_gptq_rounds_to_nearest_where_inputs_are_independent(random):
    values, layout = torch.randn(5, 30, generator=random), Layout(3, 16, "grid")
    found = rounded(values, layout, torch.diag(torch.rand(30, generator=random)))
    assert torch.equal(found.codes, round_to_nearest(values, layout).codes)


def test_rows_do_not_influence_each_other(random):
    values, moment = torch.randn(6, 150, generator=random), moment_of(150, random)
    layout = Layout(2, 64, "grid")
    together = rounded(values, layout, moment).codes
    alone = torch.cat([rounded(row[None], layout, moment).codes for row in values])
    assert (together == alone).float().mean() > 0.99


def test_each_row_may_have_its_own_bits(random):
    values, moment = torch.randn(4, 40, generator=random), moment_of(40, random)
    fine, coarse = (fit(values[part], Layout(bits, 128, "grid")) for part, bits in ((slice(2), 8), (slice(2, 4), 2)))
    steps, lows = torch.cat([fine.step(), coarse.step()]), torch.cat([fine.low(), coarse.low()])
    codes = gptq(values, steps, lows, torch.tensor([255, 255, 3, 3]), moment)
    assert codes[:2].max() > 200
    assert codes[2:].max() == 3


def by_definition(values, layout, moment):
    """GPTQ as its paper states it: round one input, correct the others by the inverse of what remains of the moment."""
    grids = fit(values, layout)
    left = moment.diagonal().argsort(descending=True).tolist()
    damped = moment.double() + DAMPING * moment.double().diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    rest, codes = values.double().clone(), torch.zeros(values.shape)
    while left:
        inverse = torch.linalg.inv(damped[left][:, left])
        at = left[0]
        step, low = grids.step()[:, at], grids.low()[:, at]
        codes[:, at] = ((rest[:, at] - low) / step).round().clamp(0, layout.top)
        error = rest[:, at] - low - codes[:, at] * step
        rest[:, left] -= error[:, None] * inverse[0] / inverse[0, 0]
        left = left[1:]
    return codes


def test_gptq_follows_its_definition(random):
    # More inputs than are corrected at a time.
    values, moment = torch.randn(7, 160, generator=random), moment_of(160, random)
    layout = Layout(4, 32, "grid")
    same = rounded(values, layout, moment).codes == by_definition(values, layout, moment)
    assert same.float().mean() > 0.98


@pytest.mark.parametrize("moment", [torch.zeros(9, 9), torch.ones(9, 9)])
def test_a_moment_without_an_inverse_is_no_obstacle(moment, random):
    values = torch.randn(3, 9, generator=random)
    found = rounded(values, Layout(8, 9, "grid"), moment)
    assert (found.values() - values).abs().max() < 0.1
