"""Tasks that nobody has marked: the detector on numbers, and real training on two tasks one after another."""

from __future__ import annotations

import json
import random
import shutil
from collections import deque
from functools import partial

import pytest

import skillpack
from skillpack.errors import DataError, UsageError
from skillpack.learning import Training
from skillpack.learning.measuring import Measuring
from skillpack.learning.shifts import ShiftDetector
from skillpack.learning.streaming import SHOWN, _prompts
from skillpack.live.models import open_model, open_tokenizer
from skillpack.routing.examples import EXAMPLES_TYPE, find_examples
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from skillpack.texts import Sample
from tests.learning.conftest import ANSWERS, chat, task


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
    # A router knows what each is for, by prompts without answers.
    router = skillpack.open_router(open_model(base), open_tokenizer(base), store=repository)
    for skill in skills:
        assert len(find_examples(repository, skill.digest, router.base)) == SHOWN
    for what, place in (("colours", 2), ("sounds", 1)):
        prompts = [f"{what}: {word}?" for word in ANSWERS[what]]
        for route in router.route(prompts):
            assert [choice.digest for choice in route.choices] == [segments[place].digest]
    # How long an iterator is nobody knows.
    assert (0, 0, "learning from the stream") in seen


def examples_of(segment, store):
    return [each for each in open_existing(store).referrers(segment.digest) if each.artifact_type == EXAMPLES_TYPE]


def learned(stream, base, store):
    """The only segment of a stream."""
    (segment,) = skillpack.learn_stream(stream, base, training=Training(batch=2), share=0.5, store=store)
    return segment


def test_what_a_router_is_shown():
    system = {"role": "system", "content": "Be brief."}
    whole = chat("Hi", "Hello")
    longer = Sample(messages=(system, *whole.messages, *chat("And you?", "Fine").messages))
    waiting = Sample(messages=(system,))
    assert _prompts([whole, longer, waiting, Sample(text="a text")]) == [
        Sample(messages=whole.messages[:1]),
        Sample(messages=longer.messages[:-1]),
        waiting,
        Sample(text="a text"),
    ]
    assert _prompts([chat("", "Hello"), Sample(messages=whole.messages[1:]), Sample()]) == []


def test_few_prompts_are_none(base, tmp_path):
    stream = [Sample(text=f"the text number {number}") for number in range(4)]
    assert examples_of(learned(stream[:3], base, tmp_path / "few"), tmp_path / "few") == []
    assert len(examples_of(learned(stream, base, tmp_path / "enough"), tmp_path / "enough")) == 1


def test_a_base_without_features_is_learned_from(base, tmp_path):
    """Its class is unknown: transformers knows what to train, but not what it would be used as."""
    shutil.copytree(base, tmp_path / "nameless")
    config = json.loads((base / "config.json").read_text())
    del config["architectures"]
    (tmp_path / "nameless" / "config.json").write_text(json.dumps(config))
    segment = learned(samples("colours", 2, 1), tmp_path / "nameless", tmp_path / "store")
    assert (segment.stop, examples_of(segment, tmp_path / "store")) == (4, [])


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
