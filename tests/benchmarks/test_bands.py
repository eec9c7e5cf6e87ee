from __future__ import annotations

import pytest
import torch

from benchmarks.baselines import bands
from benchmarks.baselines.delta_come import DeltaCoMe
from benchmarks.baselines.gptq import gptq
from benchmarks.baselines.graftllm import GraftLLM, smallest_rank
from benchmarks.baselines.singular import decompose
from benchmarks.baselines.stream import Reader, Writer
from tests.benchmarks.models import drift
from tests.benchmarks.test_gptq import cost, moment_of

PLAN = bands.Plan(bands.bands(20, [(8, 2), (3, 6)], 2), 32, "grid", "rank")
LEFT_GROUPS = ["rank", "outputs"]


@pytest.fixture
def delta():
    torch.manual_seed(0)
    return drift(torch.empty(70, 50))


def size_of(factors):
    writer = Writer()
    factors.write(writer)
    return len(writer.data())


def packed(*bits):
    return sum(-(-one // 8) for one in bits)


def test_bands_take_exactly_their_bits(delta):
    factors = bands.code(decompose(delta), PLAN, None)
    expected = 2 * 20
    for bits, count, left_groups in ((8, 2, 1), (3, 6, 1), (2, 12, 1)):
        for rows, columns, groups in ((count, 50, 2), (70, count, left_groups)):
            expected += 4 + 2 * rows * groups + packed(bits * rows * groups, bits * rows * columns)
    assert size_of(factors) == expected


@pytest.mark.parametrize("left_groups", LEFT_GROUPS)
@pytest.mark.parametrize("zero", ["grid", "free"])
@pytest.mark.parametrize("rank", [1, 5, 20, 50])
def test_factors_come_back_as_they_were_computed(delta, rank, zero, left_groups, random):
    plan = bands.Plan(bands.bands(rank, [(8, 2), (3, 6)], 2), 32, zero, left_groups)
    for moment in (None, moment_of(50, random)):
        factors = bands.code(decompose(delta), plan, moment)
        writer = Writer()
        factors.write(writer)
        again = bands.Factors.read(Reader(writer.data()), (70, 50), plan)
        assert torch.equal(again.matrix(), factors.matrix())


@pytest.mark.parametrize("left_groups", LEFT_GROUPS)
def test_at_eight_bits_the_factors_are_the_truncated_decomposition(delta, left_groups):
    plan = bands.Plan(bands.bands(20, [], 8), 32, "grid", left_groups)
    left, strengths, right = decompose(delta).leading(20)
    truncated = (left * strengths) @ right
    error = bands.code(decompose(delta), plan, None).matrix() - truncated
    assert error.norm() < 0.02 * truncated.norm()


@pytest.mark.parametrize("left_groups", LEFT_GROUPS)
def test_gptq_costs_less_than_rounding_to_nearest(delta, left_groups, random):
    moment = moment_of(50, random)
    plan = bands.Plan(PLAN.bands, 32, "grid", left_groups)
    left, strengths, right = decompose(delta).leading(20)
    truncated = (left * strengths) @ right
    costs = [cost(bands.code(decompose(delta), plan, one).matrix() - truncated, moment) for one in (moment, None)]
    assert costs[0] < 0.7 * costs[1]


def test_the_left_factor_makes_up_for_errors_in_what_it_is_fed_with(delta, random):
    """GPTQ on U sees S V^T x, so its cost falls against a left factor that is rounded to nearest, V being the same."""
    moment = moment_of(50, random)
    factors = bands.code(decompose(delta), PLAN, moment)
    exact = decompose(delta)
    for band, left, right in zip(PLAN.bands[1:], factors.lefts[1:], factors.rights[1:], strict=True):
        part = slice(band.first, band.last)
        fed = factors.strengths[part].float()[:, None] * right.values()
        step, low = left.grids.step(), left.grids.low()
        expected = gptq(exact.left[:, part], step, low, left.grids.layout.top, fed @ moment @ fed.T)
        assert torch.equal(left.codes, expected)
        nearest = left.grids.nearest(exact.left[:, part])
        plain = low + nearest * step
        costs = [cost((one - exact.left[:, part]) @ fed, moment) for one in (left.values(), plain)]
        assert costs[0] < costs[1]


def test_delta_come_keeps_a_share_of_the_rank_in_three_bands():
    plan = DeltaCoMe()._plan(1536, 576)
    assert plan.bands == ((8, 0, 2), (3, 2, 34), (2, 34, 230))
    assert DeltaCoMe(share=0.001)._plan(1536, 576).bands == ((8, 0, 1),)


def test_an_mlp_keeps_the_fewest_triplets_that_reach_the_energy(delta):
    strengths = decompose(delta).strengths
    for energy in (0.3, 0.9, 0.99, 1.0):
        rank = smallest_rank(strengths, energy)
        share = strengths[:rank].square().sum() / strengths.square().sum()
        assert share >= energy - 1e-6
        assert rank == 1 or strengths[: rank - 1].square().sum() / strengths.square().sum() < energy


def test_graftllm_has_a_rule_for_each_kind_of_module(delta):
    graft, strengths = GraftLLM(attention=0.2, energy=0.8), decompose(delta).strengths
    assert graft._rank("model.layers.0.self_attn.q_proj.weight", strengths) == 10
    assert graft._rank("model.layers.0.mlp.up_proj.weight", strengths) == smallest_rank(strengths, 0.8)


def test_published_bands_are_scaled_to_the_width():
    assert GraftLLM()._plan(1000, 4096).bands == ((8, 0, 20), (4, 20, 200), (2, 200, 1000))
    assert GraftLLM()._plan(100, 576).bands == ((8, 0, 3), (4, 3, 28), (2, 28, 100))


def test_graftllm_keeps_the_greatest_entries_of_the_embedding(delta):
    code = GraftLLM(kept=0.1).coder(_no_changes(), {})
    kept = code("model.embed_tokens.weight", delta).matrix()
    assert (kept != 0).sum() == 350
    assert delta[kept == 0].abs().max() <= delta[kept != 0].abs().min()
    torch.testing.assert_close(kept[kept != 0], delta[kept != 0], rtol=1e-3, atol=1e-6)


def _no_changes():
    from types import SimpleNamespace

    return SimpleNamespace(base="base", tuned="tuned", coded=[])
