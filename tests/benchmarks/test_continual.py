"""The other approaches of the benchmark of continual learning, on a tiny model and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.continual import _transfer, approaches
from benchmarks.continual_baselines.ewc import Ewc, diagonal_fisher
from benchmarks.continual_baselines.protocol import Cache
from benchmarks.continual_baselines.replay import Replay
from benchmarks.continual_baselines.sequential import rate
from benchmarks.continual_baselines.sets import Routes, _result
from benchmarks.continual_tasks import Course, Learned
from skillpack.learning.training import FineTune, Training, fine_tune
from skillpack.live.models import open_model
from skillpack.texts import Sample
from tests.learning.conftest import task
from tests.live import models

TRAINING = Training(steps=40, batch=4, learning_rate=1e-2)


class Known(Learned):
    """A task whose expert is there."""

    expert = None


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """Two tasks on a tiny Llama, with their experts; not to be changed."""
    folder = tmp_path_factory.mktemp("course")
    base = models.llama(folder / "base", initializer_range=0.1)
    tasks = []
    for name in ("colours", "sounds"):
        one = Known(task(name), TRAINING, constant=False, calibration=task(name).training)
        fine_tune(base, one.task.training, folder / name, TRAINING)
        object.__setattr__(one, "expert", folder / name)
        tasks.append(one)
    return Course("tiny", base, tuple(tasks))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_all_approaches_learn_what_one_model_forgets(course, tmp_path):
    found = {}
    every = approaches(course, 1.0, None)
    for key in every.keys() - {"ewc-10000", "ewc-1e+06", "ours-calibrated"}:
        approach = replace(every[key], share=0.5) if key == "ours" else every[key]
        room = tmp_path / key
        first = approach.learn(course, room, Cache(room / "cache"))
        found[key] = first.scores
        again = approach.learn(course, room, Cache(room / "cache"))
        assert (again.scores, again.bytes) == (first.scores, first.bytes)
        assert len(first.bytes) == 2
    assert found["ours"] == [[1, 0], [1, 1]]
    # One model that learns the second task alone has nothing left of the first.
    assert [found["sequential"][0][0], *found["sequential"][1]] == [1, 0, 1]
    assert found["replay"][1] == [1, 1]
    assert found["ewc-100"][1][1] >= 0.5
    assert {len(row) for rows in found.values() for row in rows} == {2}


def test_the_penalty_of_ewc_by_hand():
    # Task A: F = 2 at 1; task B: F = 4 at 3. At theta = 2: 2 (2 - 1)^2 + 4 (2 - 3)^2 = 6.
    ewc, model = Ewc(), torch.nn.Linear(1, 1, bias=False)
    ewc._fisher, ewc._pulled = {"weight": torch.tensor([[6.0]])}, {"weight": torch.tensor([[2.0 * 1 + 4.0 * 3]])}
    constant = 2.0 * 1**2 + 4.0 * 3**2
    with torch.no_grad():
        model.weight.fill_(2.0)
    assert ewc.penalty(model).item() + constant == pytest.approx(6.0)
    # d/dtheta = 2 * (2 (2 - 1) + 4 (2 - 3)) = -4.
    ewc.penalty(model).backward()
    assert model.weight.grad.item() == pytest.approx(-4.0)


def test_fisher_is_the_expected_square_of_the_score(tmp_path):
    # For one softmax, E[(d log p(y) / d logit_k)^2] = p_k (1 - p_k), which is what a bias of the logits sees.
    folder = models.bert(tmp_path / "bert", seed=1)
    samples = [Sample(text="abc", label=0)] * 200
    tuner = FineTune(folder, [0, 1, 2], Training(batch=1))
    found = diagonal_fisher(tuner, samples)["classifier.bias"]
    tuner.model.eval()
    with torch.no_grad():
        share = tuner.model(**tuner.tokenizer("abc", return_tensors="pt")).logits[0].softmax(-1)
    assert torch.allclose(found, share * (1 - share), atol=0.08)


def test_replay_adds_as_many_samples_of_earlier_tasks(course):
    seen = []
    tuner = SimpleNamespace(loss=lambda batch: seen.append(list(batch)))
    replay, (first, second) = Replay(memory=2), course.tasks
    replay.loss(tuner, second.task.training, 0)
    replay._seen = [first]
    replay.loss(tuner, second.task.training, 0)
    assert [len(batch) for batch in seen] == [4, 8]
    assert seen[1][:4] == second.task.training
    assert all(sample in first.task.training[:2] for sample in seen[1][4:])


def test_the_rates_are_those_of_the_experts(course):
    one = replace(course.tasks[0], training=Training(steps=110))
    assert [rate(one, place, 110) for place in (0, 9, 60, 109)] == [0.1, 1.0, 0.5, 0.01]
    assert rate(replace(one, constant=True), 109, 110) == 1.0


def test_a_set_is_routed_prompt_by_prompt(course, tmp_path):
    class Fixed(Routes):
        """After the first task all go to its model; after the second every other prompt of the second does."""

        def __init__(self):
            pass

        def of(self, step, place):
            return [0] * 4 if step == 0 or place == 0 else [1, 0, 1, 0]

    def model_of(place):
        return open_model(course.tasks[place].expert)

    result = _result(course, Cache(tmp_path), model_of, [3, 4], Fixed())
    assert result.scores == [[1, 0], [1, 1]]
    assert result.routed == [[1, 0], [1, 0.5]]
    assert result.bytes == [3, 7]


def test_figures():
    figures = _transfer([[0.5, 0.0], [0.25, 0.75]], [0.0, 0.0], [0.5, 0.75])
    assert figures == {
        "scores": [[0.5, 0.0], [0.25, 0.75]],
        "average": 0.5,
        "backward_transfer": -0.25,
        "forward_transfer": 0.0,
        "of_experts": 0.8,
    }


def test_a_measurement_is_kept(tmp_path):
    cache, calls = Cache(tmp_path / "cache"), []
    assert cache.get("one", lambda: calls.append(1) or [1, 2]) == [1, 2]
    assert cache.get("one", lambda: calls.append(1) or [3]) == [1, 2]
    assert (calls, json.loads((tmp_path / "cache" / "one.json").read_text())) == ([1], [1, 2])
