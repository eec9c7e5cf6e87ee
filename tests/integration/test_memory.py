"""Memory is bounded by the largest tensor: the 300 MB case of ``python -m benchmarks.memory``."""

from __future__ import annotations

from benchmarks.memory import measure


def test_packing_and_installing_stay_within_the_limit(room):
    found = measure(room, 300_000_000)
    assert found["tensors_equal_to_tuned"] == found["tensors"]
    peaks = {name: usage["peak_anonymous_bytes"] for name, usage in found["commands"].items()}
    assert min(peaks.values()) > 20_000_000, "nothing was measured"
    assert max(peaks.values()) <= found["limit_bytes"], peaks
