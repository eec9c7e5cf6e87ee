"""Packs that are to stay within a divergence from the fine-tune."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import skillpack
from skillpack.cli.root import root as command
from skillpack.errors import DataError, UsageError
from skillpack.evaluating.trials import Measured
from skillpack.packing.divergence import pack_within

pytestmark = pytest.mark.usefixtures("room")


@pytest.fixture
def pack(llama, texts, tmp_path):
    def run(max_kl, calibration=texts, **arguments):
        given = {"max_kl": max_kl, "calibration": calibration, "refine": 0, "store": tmp_path / "store"}
        return skillpack.pack(llama.base, llama.tuned, "within", **given, **arguments)

    return run


def test_what_is_measured_is_what_an_evaluation_finds(llama, texts, tmp_path, pack, room):
    report = pack(0.05)
    found = skillpack.evaluate("within", llama.base, llama.tuned, texts, store=tmp_path / "store")
    assert report.measured == (
        *(found.kl, found.kl_interval[1], found.samples, found.tokens),
        found.kl_interval[0],
    )
    assert report.measured.kl < report.measured.upper <= 0.05
    assert list(room.iterdir()) == []


def test_a_closer_pack_is_a_larger_one(pack):
    sizes = []
    for allowed in (0.2, 0.02, 0.002):
        report = pack(allowed, dry_run=True)
        assert 0.5 * allowed <= report.measured.upper <= allowed
        sizes.append(report.size)
    assert sizes == sorted(set(sizes))


def test_the_same_goal_gives_the_same_skill(pack):
    assert pack(0.02).digest == pack(0.02).digest


def test_the_fine_tunes_own_texts(pack):
    one, other = pack(0.1, calibration=None, dry_run=True), pack(0.1, calibration="self", dry_run=True)
    assert one.measured == other.measured
    assert one.measured.samples == 32
    assert one.measured.upper <= 0.1


@pytest.mark.parametrize("allowed", [0.0, -1.0, math.inf, math.nan])
def test_goals_that_make_no_sense(pack, allowed):
    with pytest.raises(UsageError, match="cannot be asked for"):
        pack(allowed)


def test_goals_that_exclude_each_other(pack):
    with pytest.raises(UsageError, match="exclude one another"):
        pack(0.1, size=10_000)


def test_texts_that_are_not_there(pack, room):
    with pytest.raises(DataError, match="no such file"):
        pack(0.1, calibration="nowhere.jsonl")
    assert list(room.iterdir()) == []


def test_a_divergence_that_no_lossy_pack_has(pack, room):
    with pytest.raises(UsageError, match="no pack came within 1e-15 nats"):
        pack(1e-15)
    assert list(room.iterdir()) == []


def test_the_command(llama, texts, tmp_path):
    data = tmp_path / "texts.txt"
    data.write_text("\n\n".join(text.text for text in texts), encoding="utf-8")
    arguments = ["pack", str(llama.base), str(llama.tuned), "--name", "within", "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(
        command, [*arguments, "--max-kl", "0.05", "--refine", "0", "--calibration", str(data), "--json"]
    )
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert measured["samples"] == 4
    assert measured["kl"] < measured["kl_upper"] <= 0.05
    shown = CliRunner().invoke(command, [*arguments, "--max-kl", "0.05", "--refine", "0", "--calibration", str(data)])
    assert f"KL from the fine-tune: {measured['kl']:.3g} nats, at most {measured['kl_upper']:.3g}" in shown.output
    far = CliRunner().invoke(command, [*arguments, "--size", "9kB", "--refine", "0", "--calibration", str(data)])
    assert "note: this is far from the fine-tune, more than 0.02 nats" in far.output, far.output


class Curve:
    """Packs whose size and divergence are functions of the step; keeps count of what is open."""

    def __init__(self, kl_at, size_at=lambda step: 1e6 / step, start=1.0):
        self.kl_at, self.size_at, self.start = kl_at, size_at, start
        self.open = self.coded = 0

    def attempt(self, step):
        self.open += 1
        self.coded += 1
        packed = SimpleNamespace(step=step, size=round(self.size_at(step)), payload=SimpleNamespace(close=self.close))
        return packed, Measured(self.kl_at(step) / 2, self.kl_at(step), 1, 1, 0.0)

    def close(self):
        self.open -= 1


@pytest.mark.parametrize("start", [1e-3, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("slope", [1.0, 2.0, 3.5, 6.0])
def test_a_search_ends_close_to_its_goal(slope, start):
    curve = Curve(lambda step: 0.01 * step**slope, start=start)
    packed, measured = pack_within(curve.start, 0.02, curve.attempt)
    assert 0.85 * 0.02 <= measured.upper <= 0.02
    assert measured.upper == curve.kl_at(packed.step)
    assert curve.open == 1


def test_a_search_with_a_jump_gives_what_fits():
    curve = Curve(lambda step: 0.001 if step < 2 else 0.5)
    packed, measured = pack_within(curve.start, 0.02, curve.attempt)
    assert (measured.upper, curve.open) == (0.001, 1)
    assert packed.step > 1.5


def test_a_search_stops_where_packs_shrink_no_more():
    curve = Curve(lambda step: min(step, 0.004), size_at=lambda step: max(1e6 / step, 5e4))
    packed, _ = pack_within(curve.start, 0.02, curve.attempt)
    assert packed.size == 50_000
    assert curve.coded <= 6


def test_a_search_that_finds_nothing_leaves_nothing_open():
    curve = Curve(lambda step: 0.5, size_at=lambda step: 1e6)
    with pytest.raises(UsageError, match=r"0\.5 at best"):
        pack_within(curve.start, 0.02, curve.attempt)
    assert curve.open == 0
    assert curve.coded <= 3
