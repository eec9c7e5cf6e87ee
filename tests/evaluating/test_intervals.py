from __future__ import annotations

import numpy as np

from skillpack.evaluating import intervals
from skillpack.evaluating.intervals import RESAMPLES, percentile_interval, resampled_totals


def test_totals_are_those_of_whole_samples():
    sample = np.array([4, 4, 7, 9, 9, 9])
    totals = resampled_totals(sample, {"x": np.array([1.0, 2.0, 10.0, 100.0, 100.0, 100.0])})
    assert totals["x"].shape == totals["count"].shape == (RESAMPLES,)
    # Three samples with the totals 3, 10 and 300, of 2, 1 and 3 values.
    possible = {3 * a + 10 * b + 300 * (3 - a - b): 2 * a + b + 3 * (3 - a - b) for a in range(4) for b in range(4 - a)}
    assert set(totals["x"]) == possible.keys()
    assert all(totals["count"] == [possible[total] for total in totals["x"]])


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(0).normal(size=400)
    totals = resampled_totals(np.arange(400), {"x": values})
    low, high = percentile_interval(totals["x"] / totals["count"])
    spread = 1.96 * values.std() / 20
    assert abs(low - (values.mean() - spread)) < 0.05 * spread
    assert abs(high - (values.mean() + spread)) < 0.05 * spread


def test_values_of_one_sample_go_together():
    """Copies of a value in one sample say no more than the value itself."""
    values = np.random.default_rng(0).normal(size=50)
    once = resampled_totals(np.arange(50), {"x": values})
    often = resampled_totals(np.repeat(np.arange(50), 20), {"x": np.repeat(values, 20)})
    np.testing.assert_allclose(often["x"] / often["count"], once["x"] / once["count"])


def test_draws_do_not_depend_on_how_many_are_in_memory(monkeypatch):
    sample, columns = np.arange(30) // 3, {"x": np.arange(30.0), "y": np.arange(30) % 2 == 0}
    expected = resampled_totals(sample, columns, seed=5)
    monkeypatch.setattr(intervals, "_AT_ONCE", 70)
    found = resampled_totals(sample, columns, seed=5)
    for name, totals in expected.items():
        np.testing.assert_array_equal(found[name], totals)
    assert not np.array_equal(resampled_totals(sample, columns, seed=6)["x"], expected["x"])
