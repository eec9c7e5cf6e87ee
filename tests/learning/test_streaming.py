"""Tasks that nobody has marked: the detector on numbers, and real training on two tasks one after another."""

from __future__ import annotations

import random
from collections import deque
from functools import partial

import pytest

import skillpack
from skillpack.errors import DataError, UsageError
from skillpack.learning import Training
from skillpack.learning.measuring import Measuring
from skillpack.learning.shifts import ShiftDetector
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from skillpack.texts import Sample
from tests.learning.conftest import task


def test_the_threshold_by_hand():
    # 2, 4, 4, 4, 6: the mean is 4, the sample variance (4 + 0 + 0 + 0 + 4) / 4 = 2.
    assert ShiftDetector(losses=deque([2.0, 4.0, 4.0, 4.0, 6.0])).threshold == pytest.approx(4 + 4 * 2**0.5)
    # Equal losses: the deviation is taken for 5 % of the mean.
    assert ShiftDetector(losses=deque([2.0] * 5)).threshold == pytest.approx(2 + 4 * 0.1)
    assert ShiftDetector(losses=deque([2.0] * 4)).threshold is None


def test_three_in_a_row_are_new_and_two_are_not():
    detector = ShiftDetector(losses=deque([1.0] * 10))
    assert [detector.see(loss) for loss in (5.0, 5.0, 1.0, 5.0, 5.0, 5.0)] == [
        "suspicious",
        "suspicious",
        "same",
        "suspicious",
        "suspicious",
        "new",
    ]
    # What was suspicious has not moved the threshold.
    assert max(detector.losses) == 1.0


def test_noise_is_no_new_task():
    draw = random.Random(1)
    for _ in range(15):
        detector = ShiftDetector()
        losses = [0.3 + 3 * 0.97**step + draw.gauss(0, 0.1) for step in range(1000)]
        assert "new" not in {detector.see(loss) for loss in losses}


def samples(name, batches, seed):
    """Batches of four."""
    draw, known = random.Random(seed), task(name).training
    return draw.choices(known, k=4 * batches)


def test_two_tasks_and_the_first_again(base, tmp_path):
    stream = [*samples("colours", 40, 1), *samples("sounds", 40, 2), *samples("colours", 12, 3)]
    training = Training(batch=4, learning_rate=5e-3)
    seen = []
    segments = skillpack.learn_stream(
        iter(stream),
        base,
        training=training,
        quality=0.99,
        store=tmp_path / "store",
        progress=lambda *call: seen.append(call),
    )
    assert [(each.name, each.start, each.stop, each.returned) for each in segments] == [
        ("task-1", 0, 40, False),
        ("task-2", 40, 80, False),
        ("task-1", 80, 92, True),
    ]
    assert [each.version for each in segments] == [1, 1, 2]
    assert [len(each.losses) for each in segments] == [40, 40, 12]
    assert segments[2].losses[0] < 0.5 < segments[1].losses[0]
    repository = open_existing(tmp_path / "store")
    measuring = Measuring(base, tmp_path / "cache")
    skills = [open_skill(repository, each.digest, each.name) for each in segments]
    right = {
        (what, place): measuring.of_skill(task(what), skill, repository)
        for what in ("colours", "sounds")
        for place, skill in enumerate(skills)
    }
    # Each skill knows its own task, and nothing of the other got into it.
    assert min(right["colours", 0], right["sounds", 1], right["colours", 2]) >= 0.75
    assert right["colours", 1] == right["sounds", 0] == right["sounds", 2] == 0
    assert [each.name for each in skillpack.list(store=tmp_path / "store")] == ["task-1", "task-2"]
    # How long an iterator is nobody knows.
    assert (0, 0, "learning from the stream") in seen


def test_streams_that_are_refused(base, tmp_path):
    refused = partial(skillpack.learn_stream, base=base, share=0.5, store=tmp_path / "store")
    with pytest.raises(DataError, match="no text to learn from"):
        refused([])
    with pytest.raises(DataError, match="batch 1 of the stream has labels"):
        refused([Sample(text="a cat"), Sample(text="b", label=1)], training=Training(batch=1))
    with pytest.raises(UsageError, match="with every weight"):
        refused([Sample(text="a")], training=Training("lora"))
    with pytest.raises(UsageError, match="exclude one another"):
        refused([Sample(text="a")], size=10_000)
    assert not (tmp_path / "store").exists()
