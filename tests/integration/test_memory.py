"""Memory is bounded by the largest tensor: the small cases of ``benchmarks.memory`` and ``benchmarks.compose``."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.compose import memory_of
from benchmarks.memory import measure
from benchmarks.synthetic import Architecture


def test_packing_and_installing_stay_within_the_limit(room):
    found = measure(room, 300_000_000)
    assert found["tensors_equal_to_tuned"] == found["tensors"]
    peaks = {name: usage["peak_anonymous_bytes"] for name, usage in found["commands"].items()}
    assert min(peaks.values()) > 20_000_000, "nothing was measured"
    assert max(peaks.values()) <= found["limit_bytes"], peaks


def test_composing_stays_within_the_limit_and_goes_on_where_it_was_killed(room):
    found = memory_of(room, room / "store", replace(Architecture.of_size(300_000_000), layers=2), 4, ["sum", "ties"])
    peaks = {name: usage["peak_anonymous_bytes"] for name, usage in found["methods"].items()}
    assert min(peaks.values()) > 20_000_000, "nothing was measured"
    # Where memory that is free does not go back it is 560 MB.
    assert max(peaks.values()) <= 480_000_000 <= found["limit_bytes"], peaks
    for usage in found["methods"].values():
        assert usage["resumed"] >= usage["finished_before_a_kill"] >= usage["matrices"] // 2
