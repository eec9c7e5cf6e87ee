from __future__ import annotations

import pytest
import torch

from benchmarks.baselines.bitdelta import BitDelta, distilled_scales
from benchmarks.baselines.changes import Changes
from benchmarks.baselines.protocol import apply
from skillpack.checkpoint import open_checkpoint
from tests.benchmarks.models import random_tokens


def test_the_scale_is_the_one_of_least_squared_error(random):
    delta = torch.randn(30, 20, generator=random)
    coded = BitDelta().code("some.weight", delta)
    assert torch.equal(coded.matrix().sign(), delta.sign())
    errors = [float((scale * coded.scale * delta.sign() - delta).square().sum()) for scale in (0.99, 1.0, 1.01)]
    assert errors[1] == min(errors)


def test_entries_without_change_are_positive_or_random(random):
    delta = torch.randn(200, 100, generator=random) * (torch.rand(200, 100, generator=random) < 0.5)
    unchanged = delta == 0
    for way, share in (("positive", 1.0), ("random", 0.5)):
        coded = BitDelta(unchanged=way).code("some.weight", delta)
        assert torch.equal(coded.positive[~unchanged], delta[~unchanged] > 0)
        assert coded.positive[unchanged].float().mean() == pytest.approx(share, abs=0.02)
        assert coded.scale == delta.abs().mean()


def test_distilled_scales_bring_the_logits_nearer_and_are_stored(pair, tmp_path):
    base, tuned = pair
    checkpoint, changes = open_checkpoint(base), Changes(base, tuned, "coded")
    before = {name: torch.from_numpy(checkpoint.read(name).float32()) for name in changes.coded}
    doubled = {name: 2 * float(changes.delta(name).abs().mean()) for name in changes.coded}
    BitDelta(scales=doubled).save(base, tuned, tmp_path / "doubled")
    teacher, held_out = apply(tuned, {}), random_tokens(8, 12, seed=9)
    student = apply(base, BitDelta.load(tmp_path / "doubled", base))

    def distance(model):
        with torch.no_grad():
            return float((model(**held_out).logits - teacher(**held_out).logits).square().mean())

    first = distance(student)
    batches = [random_tokens(8, 12, seed=seed) for seed in range(40)]
    scales = distilled_scales(student, teacher, before, batches, rate=1e-3)
    BitDelta().save(base, tuned, tmp_path / "mean")
    mean = distance(apply(base, BitDelta.load(tmp_path / "mean", base)))
    assert distance(student) < mean < 0.6 * first
    assert scales.keys() == before.keys()

    BitDelta(scales=scales).save(base, tuned, tmp_path / "distilled")
    again = apply(base, BitDelta.load(tmp_path / "distilled", base))
    assert distance(again) == pytest.approx(distance(student), rel=1e-4)
    sizes = [(tmp_path / name / "delta.bin").stat().st_size for name in ("mean", "distilled")]
    assert sizes[0] == sizes[1]
