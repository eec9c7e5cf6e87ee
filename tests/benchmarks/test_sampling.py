"""Methods that keep some of the entries: DARE, ComPEFT, UltraDelta."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.baselines import compeft, sparse
from benchmarks.baselines.compeft import ComPeft
from benchmarks.baselines.dare import Dare
from benchmarks.baselines.stream import Writer
from benchmarks.baselines.ultradelta import UltraDelta, sparsities

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def delta(random):
    return 0.01 * torch.randn(60, 50, generator=random)


def bytes_of(coded):
    writer = Writer()
    coded.write(writer)
    return len(writer.data())


@pytest.mark.parametrize("bits", [16, 8])
def test_dare_is_unbiased_over_seeds(delta, bits):
    drop, count = 0.8, 400
    total = torch.zeros_like(delta)
    for seed in range(count):
        total += Dare(drop=drop, bits=bits, seed=seed).code(NAME, delta).matrix()
    stray = delta.square() * drop / (1 - drop) / count
    assert (total / count - delta).square().sum() == pytest.approx(float(stray.sum()), rel=0.1)
    # The sign of what an entry misses is a matter of chance, whatever its size.
    for part in (delta.abs() > delta.std(), delta.abs() < delta.std()):
        missed = ((total / count - delta) * delta.sign())[part]
        assert missed.sum().abs() < 4 * stray[part].sum().sqrt()
    assert ((total / count) * delta).sum() == pytest.approx(float(delta.square().sum()), rel=0.01)


def test_dare_keeps_entries_by_chance_and_rescales_them(delta):
    found = Dare(drop=0.9, bits=16).code(NAME, delta).matrix()
    kept = found != 0
    assert kept.float().mean() == pytest.approx(0.1, abs=0.03)
    torch.testing.assert_close(found[kept], 10 * delta[kept], rtol=1e-2, atol=1e-5)
    other = Dare(drop=0.9, bits=16).code("another.weight", delta).matrix() != 0
    assert not torch.equal(kept, other)


@pytest.mark.parametrize("positions", ["seed", "golomb"])
def test_dare_takes_its_codes_and_positions_only_where_they_are_not_drawn_again(delta, positions):
    method = Dare(drop=0.9, positions=positions)
    coded = method.code(NAME, delta)
    count = coded.positions.size
    groups = -(-count // 128)
    values = 4 + 2 * groups + -(-4 * groups // 8) + -(-4 * count // 8)
    entropy = 3000 * (-0.1 * math.log2(0.1) - 0.9 * math.log2(0.9)) / 8
    stored = bytes_of(coded) - values
    assert stored == 0 if positions == "seed" else stored == pytest.approx(entropy, rel=0.15)


def test_nothing_dropped_is_plain_rounding(delta):
    found = Dare(drop=0.0, bits=8).code(NAME, delta).matrix()
    torch.testing.assert_close(found, delta, atol=2e-4, rtol=0)


def test_compeft_keeps_the_greatest_signs_of_the_whole_model(delta):
    small = delta[:20] / 3
    method = ComPeft(share=0.2, alpha=2.0)
    cut = method.cut([delta, small])
    vector = torch.cat([delta.reshape(-1), small.reshape(-1)])
    assert cut.magnitude == pytest.approx(2 * float(vector.std()), rel=1e-3)
    assert sum(compeft.code(one, cut).positions.size for one in (delta, small)) == round(0.2 * vector.numel())
    found = compeft.code(delta, cut).matrix()
    assert set(found.abs().unique().tolist()) == {0.0, np.float32(cut.magnitude)}
    assert torch.equal(found[found != 0].sign(), delta[found != 0].sign())
    assert delta[found != 0].abs().min() > delta[found == 0].abs().max()


def test_without_alpha_the_magnitude_is_the_one_of_least_squared_error(delta):
    found = compeft.code(delta, ComPeft(share=0.1, alpha=None).cut([delta])).matrix()
    errors = [float((scale * found - delta).square().sum()) for scale in (0.99, 1.0, 1.01)]
    assert errors[1] == min(errors)


def test_compeft_never_keeps_what_did_not_change():
    delta = torch.zeros(10, 10)
    delta[0, 0] = -1.0
    assert compeft.code(delta, ComPeft(share=0.5).cut([delta])).positions.tolist() == [0]
    assert compeft.code(delta, ComPeft(share=0.5, alpha=None).cut([delta])).matrix()[0, 0] == -1
    assert not compeft.code(delta * 0, ComPeft().cut([delta * 0])).matrix().any()


def test_compeft_takes_a_sign_and_a_position_for_each_kept_entry(random):
    delta = torch.randn(500, 400, generator=random)
    coded = compeft.code(delta, ComPeft(share=0.05).cut([delta]))
    entropy = -(0.05 * math.log2(0.05) + 0.95 * math.log2(0.95))
    assert 8 * bytes_of(coded) == pytest.approx(200_000 * (entropy + 0.05), rel=0.03)


def test_matrices_of_less_deviation_lose_more_and_the_whole_loses_what_is_wanted():
    facts = {f"m{number}": (100, 1.0 + number) for number in range(9)}
    rates = sparsities(facts, 0.8, 0.05)
    assert [rates[f"m{number}"] for number in range(9)] == pytest.approx([0.85] * 3 + [0.8] * 3 + [0.75] * 3)
    uneven = {"a": (50, 1.0), "b": (30, 2.0), "c": (200, 3.0), "d": (20, 0.5)}
    rates = sparsities(uneven, 0.9, 0.02)
    assert sum(uneven[name][0] * rate for name, rate in rates.items()) == pytest.approx(0.9 * 300)
    assert rates["d"] == rates["a"] == 0.92
    assert max(sparsities({"a": (10, 1.0)}, 0.999, 0.1).values()) == 0.99


def test_ultradelta_keeps_the_same_share_of_each_code(delta):
    full, half = (UltraDelta(sparsity=rate).code(NAME, delta, rate) for rate in (0.0, 0.5))
    for all_of_them, kept in zip(full.kept, half.kept, strict=True):
        assert len(kept) == len(all_of_them) - round(len(all_of_them) / 2)
        assert np.isin(kept, all_of_them).all()
    assert sum(map(len, full.kept)) == delta.numel()


def test_ultradelta_rounds_between_the_extremes_and_rescales(delta):
    whole = UltraDelta(sparsity=0.0).code(NAME, delta, 0.0).matrix()
    step = float(delta.max() - delta.min()) / 15
    assert (whole - delta).abs().max() <= 0.501 * step
    for end in ("max", "min"):
        torch.testing.assert_close(getattr(whole, end)(), getattr(delta, end)())
    assert len(whole.unique()) <= 16
    thinned = UltraDelta(sparsity=0.75).code(NAME, delta, 0.75).matrix()
    kept = thinned != 0
    torch.testing.assert_close(thinned[kept], 4 * whole[kept])


def test_with_zero_on_the_grid_entries_without_change_stay_and_rescaling_is_unbiased(delta, random):
    delta = delta * (torch.rand(delta.shape, generator=random) < 0.6)
    whole = UltraDelta(sparsity=0.0, zero="grid", rescale="matrix").code(NAME, delta, 0.0).matrix()
    assert (whole[delta == 0] == 0).all()
    count, total = 300, torch.zeros_like(delta)
    for seed in range(count):
        method = UltraDelta(sparsity=0.8, zero="grid", rescale="matrix", seed=seed)
        found = method.code(NAME, delta, 0.82).matrix()
        assert (found == 0).float().mean() == pytest.approx(0.82, abs=0.01)
        total += found
    assert ((total / count) * whole).sum() == pytest.approx(float(whole.square().sum()), rel=0.03)


def test_code_by_code_takes_fewer_bytes_than_codes_beside_positions(random):
    delta = torch.randn(300, 200, generator=random)
    coded = UltraDelta().code(NAME, delta, 0.9)
    beside = Writer()
    positions = np.sort(np.concatenate(coded.kept))
    beside.positions(positions, delta.numel())
    beside.codes(np.zeros(positions.size, np.int64), 4)
    assert bytes_of(coded) < 0.9 * len(beside.data())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_random_positions_are_a_share_and_the_same_again(share):
    found = sparse.random_positions(10_000, share, 3, "name")
    assert len(found) == pytest.approx(10_000 * share, abs=200)
    assert np.array_equal(found, sparse.random_positions(10_000, share, 3, "name"))
    assert share in {0.0, 1.0} or not np.array_equal(found, sparse.random_positions(10_000, share, 4, "name"))


def test_the_same_entries_are_drawn_on_every_machine():
    assert sparse.random_positions(40, 0.2, 0, "model.layers.0.mlp.up_proj.weight").tolist() == [
        6,
        8,
        11,
        24,
        33,
        36,
        39,
    ]
