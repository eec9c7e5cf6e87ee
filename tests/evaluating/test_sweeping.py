"""A curve with the divergence from the fine-tune."""

from __future__ import annotations

import json
import tempfile

import pytest

import skillpack
from skillpack.errors import DataError
from skillpack.packing import sweeping


def test_each_point_is_measured_by_real_forward_passes(llama, texts, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(sweeping, "_SHARES", (0.03, 0.3))
    report = skillpack.sweep(llama.base, llama.tuned, tmp_path / "curve", points=2, calibration=texts)
    assert (report.samples, len(report.points)) == (4, 2)
    assert report.tokens > 30
    for point in report.points:
        low, high = point.kl_interval
        assert 0 <= low <= point.kl <= high
    assert report.points[-1].kl < 0.5 * report.points[0].kl
    assert list((tmp_path / "temporary").iterdir()) == []
    document = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert document["points"][0]["kl_interval"] == list(report.points[0].kl_interval)


def test_texts_that_are_not_there(llama, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        skillpack.sweep(llama.base, llama.tuned, tmp_path / "curve", calibration="nowhere.jsonl")
    assert list((tmp_path / "curve").iterdir()) == []
