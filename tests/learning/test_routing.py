"""Learning with a router: nobody names the tasks."""

from __future__ import annotations

import pytest

import skillpack
from skillpack.errors import UsageError
from skillpack.learning import ContinualLearner
from skillpack.learning import learner as module
from skillpack.learning.measuring import Measuring
from skillpack.learning.routing import asked
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from skillpack.texts import Sample
from tests.learning.conftest import TRAINING, chat, task


def test_tasks_that_nobody_names(base, tmp_path, monkeypatch):
    store, options = tmp_path / "store", {"training": TRAINING, "share": 0.5, "plot": False, "router": "prototype"}
    learner = ContinualLearner(base, tmp_path / "out", store=store, **options)
    learner.learn(task("colours"))
    monkeypatch.setattr(module, "write_state", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.learn(task("sounds"))
    monkeypatch.undo()
    # A new learner goes on, and has to be told of the earlier task, whose prompts are routed again.
    learner = ContinualLearner(base, tmp_path / "out", store=store, **options)
    with pytest.raises(UsageError, match="the texts of colours are not known"):
        learner.learn(task("sounds"))
    for name in ("colours", "sounds"):
        learner.learn(task(name))
    report = learner.report()
    assert report.named.scores == ((1, 0), (1, 1))
    assert (report.router, report.routing) == ("prototype", (1, 1))
    assert (report.routed.scores, report.routed.average, report.routed.backward_transfer) == (((1, 0), (1, 1)), 1, 0)
    assert [each.name for each in skillpack.list(store=store)] == ["colours", "sounds"]
    some_go_wrong(base, tmp_path, open_existing(store), report)
    # Rows of two routers, or of a router and none, are not one matrix.
    for other in ({}, {"router": "linear"}):
        with pytest.raises(UsageError, match="measured with the router prototype"):
            ContinualLearner(base, tmp_path / "out", store=store, **{**options, "router": None} | other)


def some_go_wrong(base, folder, repository, report):
    """Each prompt is answered by the skill that it goes to, or by the base."""
    colours, sounds = ((open_skill(repository, each.digest, each.name), repository) for each in report.tasks)
    measuring = Measuring(base, folder / "cache")
    choices = [colours, sounds, None, colours]
    assert measuring.routed(task("colours"), choices, report.tasks[0].digest) == 0.5


def test_a_router_sees_no_answer_and_no_label():
    assert asked(chat("one?", "1")).messages == ({"role": "user", "content": "one?"},)
    assert asked(Sample(text="good", label=1)) == Sample(text="good")
