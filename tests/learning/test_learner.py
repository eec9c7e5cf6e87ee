"""A stream of tasks on a tiny model, really trained, packed, installed and measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import skillpack
from skillpack.errors import BusyFolderError, DataError, UsageError
from skillpack.learning import ContinualLearner, Task, learn
from skillpack.learning import learner as module
from skillpack.learning.state import alone
from skillpack.learning.training import Training, fine_tune
from skillpack.texts import Sample
from tests.learning.conftest import ANSWERS, TRAINING, task
from tests.live import models

OPTIONS = {"training": TRAINING, "share": 0.5, "plot": False}


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """Two tasks learned; not to be changed."""
    folder = tmp_path_factory.mktemp("two")
    report = learn(
        [task("colours"), task("sounds")],
        base,
        folder / "out",
        store=folder / "store",
        again=True,
        **OPTIONS | {"plot": True},
    )
    return folder, report


def test_every_task_is_learned_and_none_forgotten(learned):
    _, report = learned
    assert [each.base for each in report.tasks] == [0, 0]
    assert [each.tuned for each in report.tasks] == [1, 1]
    assert report.named.scores == ((1, 0), (1, 1))
    assert (report.named.average, report.named.backward_transfer, report.named.forward_transfer) == (1, 0, 0)
    assert (report.routed, report.router, report.routing) == (None, None, ())


def test_skills_are_in_the_library_within_their_size(learned, base):
    folder, report = learned
    limit = 0.5 * (base / "model.safetensors").stat().st_size
    found = {each.name: each for each in skillpack.list(store=folder / "store")}
    assert {each.name: (each.digest, each.size, each.version) for each in report.tasks} == {
        name: (each.digest, each.size, each.version) for name, each in found.items()
    }
    assert all(0 < each.size <= limit for each in found.values())
    assert [each.message for each in found.values()] == ["Learn colours", "Learn sounds"]
    assert [each.name for each in skillpack.branch(store=folder / "store")] == ["main"]


def test_a_skill_changes_weights_and_no_file(learned, base):
    folder, _ = learned
    manifest = skillpack.show("colours", store=folder / "store").manifest
    assert manifest.files == ()
    assert len(manifest.tensors) > 10


@pytest.mark.parametrize("preferences", [{"colours": 0.7, "sounds": 0.3}, {"colours": 1.0, "sounds": 0.0}])
def test_a_preference_is_the_convex_combination(learned, base, tmp_path, preferences):
    store = shutil.copytree(learned[0] / "store", tmp_path / "store")
    skillpack.prefer(preferences, "both", base=base, store=store)
    skillpack.install("both", base, output=tmp_path / "both", store=store)
    wanted = [f"{name}={weight}" for name, weight in preferences.items() if weight]
    skillpack.install(wanted, base, output=tmp_path / "parts", store=store)
    both, parts, before = (
        load_file(each / "model.safetensors") for each in (tmp_path / "both", tmp_path / "parts", base)
    )
    # The same sum, but for the order in which fp32 numbers are added: neighbours in bf16, or the little that
    # is left where they cancel.
    for name, expected in parts.items():
        torch.testing.assert_close(both[name], expected, rtol=2**-7, atol=2**-22 * float(before[name].abs().max()))
    different = sum(int((both[name] != expected).count_nonzero()) for name, expected in parts.items())
    assert different < 1e-3 * sum(map(torch.numel, both.values()))
    assert not torch.equal(both["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    with pytest.raises(UsageError, match="not to 1"):
        skillpack.prefer({"colours": 0.7}, "both", store=store)


def test_the_report_is_written(learned):
    folder, report = learned
    document = json.loads((folder / "out" / "learn.json").read_text())
    assert document == report.to_json()
    assert document["scores"] == [[1, 0], [1, 1]]
    assert document["bytes"] == [each.size for each in report.tasks]
    assert (folder / "out" / "learn.png").read_bytes().startswith(b"\x89PNG")
    assert b"after learning" in (folder / "out" / "learn.svg").read_bytes()
    assert sorted(path.name for path in (folder / "out").iterdir() if path.suffix) == [
        "learn.json",
        "learn.png",
        "learn.svg",
        "progress.json",
    ]


def test_a_finished_run_goes_on_with_new_tasks(learned, base, tmp_path, monkeypatch):
    folder, before = learned
    trained = []
    monkeypatch.setattr(module, "fine_tune", lambda *_, **options: trained.append(options))
    report = learn([task("colours"), task("sounds")], base, folder / "out", store=folder / "store", **OPTIONS)
    assert trained == []
    assert (report.resumed, report.tasks) == (2, before.tasks)


def test_what_was_learned_from_other_texts_is_not_taken_for_the_same(learned, base):
    folder, _ = learned
    other = Task("colours", task("sounds").train, task("sounds").held_out, "exact")
    with pytest.raises(UsageError, match=r"colours was learned in .* from other texts or in another way"):
        learn([other], base, folder / "out", store=folder / "store", **OPTIONS)
    with pytest.raises(UsageError, match="in another way"):
        learn([task("colours")], base, folder / "out", store=folder / "store", **OPTIONS | {"share": 0.4})


def test_a_folder_of_another_base(learned, tmp_path):
    folder, _ = learned
    other = models.llama(tmp_path / "other", seed=9)
    with pytest.raises(UsageError, match="learned on another base"):
        ContinualLearner(other, folder / "out", store=folder / "store", plot=False)


def test_a_folder_without_a_router_stays_without(learned, base):
    folder, _ = learned
    with pytest.raises(UsageError, match="measured with no router"):
        ContinualLearner(base, folder / "out", store=folder / "store", router="prototype", plot=False)


def test_a_task_that_fails_leaves_the_library_as_it_was(base, tmp_path):
    store, out = tmp_path / "store", tmp_path / "out"
    learner = ContinualLearner(base, out, store=store, **OPTIONS)
    learner.learn(task("colours"))
    before = skillpack.list(store=store), skillpack.log(store=store), (out / "progress.json").read_bytes()
    # Everything goes well until the skill, which is packed then, is to be measured.
    too_long = [Sample(messages=({"role": "user", "content": "a" * 500}, {"role": "assistant", "content": "b"}))]
    with pytest.raises(DataError, match="nothing to measure"):
        learner.learn(Task("sounds", task("sounds").train, too_long, "exact"))
    assert (skillpack.list(store=store), skillpack.log(store=store), (out / "progress.json").read_bytes()) == before
    assert [each.name for each in skillpack.branch(store=store)] == ["main"]
    assert learner.names == ["colours"]
    learner.learn(task("sounds"))
    assert learner.report().named.scores == ((1, 0), (1, 1))


@pytest.mark.parametrize("size", [{"size": 20_000}, {"quality": 0.9}])
def test_a_function_that_trains(base, tmp_path, size):
    calls = []

    def train(source, what):
        calls.append((source, what.name))
        fine_tune(source, what.training, tmp_path / "mine", TRAINING)
        return tmp_path / "mine"

    learner = ContinualLearner(base, tmp_path / "out", train=train, store=tmp_path / "store", plot=False, **size)
    assert learner.learn(task("colours")).tuned == 1
    assert learner.learn(task("colours")).tuned == 1
    assert calls == [(base, "colours")]
    assert (tmp_path / "mine" / "model.safetensors").is_file()


def test_adapters(base, tmp_path):
    training = Training("lora", steps=80, batch=4, learning_rate=1e-2, rank=4)
    options = {"training": training, "share": 0.5, "plot": False}
    what = task("colours", score="likelihood")
    report = learn([what], base, tmp_path / "out", store=tmp_path / "store", **options)
    (each,) = report.tasks
    assert each.tuned > 5 * each.base
    assert report.named.scores[0][0] == pytest.approx(each.tuned, rel=0.05)
    names = {entry.name for entry in skillpack.show("colours", store=tmp_path / "store").manifest.tensors}
    assert not any("embed" in name or "norm" in name for name in names)


def test_labels_on_a_base_without_a_head(tmp_path):
    bare = models.bert(tmp_path / "bare", "BertModel", initializer_range=0.2)
    words = {"good": ["fine", "nice"], "bad": ["awful", "poor"], "odd": ["weird", "queer"]}
    samples = [Sample(text=text, label=label) for label, texts in words.items() for text in texts]
    tasks = [Task("mood", samples, samples), Task("first", samples[:4], samples[:4])]
    training = Training(steps=60, batch=6, learning_rate=3e-3)
    report = learn(tasks, bare, tmp_path / "out", store=tmp_path / "store", training=training, quality=0.99, plot=False)
    assert [each.base for each in report.tasks] == [None, None]
    assert report.named.scores == ((1, None), (1, 1))
    assert report.named.forward_transfer is None
    assert skillpack.install("mood", bare, output=tmp_path / "model", store=tmp_path / "store")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "odd"}


def test_labels_with_adapters(tmp_path):
    bare = models.bert(tmp_path / "bare", "BertModel", initializer_range=0.2)
    samples = [Sample(text=text, label=label) for label, text in enumerate(["fine", "awful", "odd"])]
    training = Training("lora", steps=60, batch=3, learning_rate=1e-2)
    options = {"training": training, "quality": 0.99, "plot": False}
    report = learn([Task("mood", samples, samples)], bare, tmp_path / "out", store=tmp_path / "store", **options)
    assert report.named.scores == ((1,),)


def test_two_processes_do_not_share_a_folder(base, tmp_path):
    learner = ContinualLearner(base, tmp_path / "out", store=tmp_path / "store", **OPTIONS)
    with alone(tmp_path / "out"), pytest.raises(BusyFolderError, match="another process is learning"):
        learner.learn(task("colours"))


def test_more_than_one_size(base, tmp_path):
    with pytest.raises(UsageError, match="exclude one another"):
        ContinualLearner(base, tmp_path, size=5, share=0.1)
    with pytest.raises(UsageError, match="no training 'half'"):
        Training("half")
    with pytest.raises(UsageError, match="at least one epoch"):
        Training(batch=0)


SCRIPT = """
import sys
from pathlib import Path
from skillpack.learning import learn
from skillpack.learning.learner import ContinualLearner
from tests.learning.conftest import TRAINING, task
base, folder, stop = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
def progress(done, total, what):
    if what.startswith(stop) and (folder / "out" / "progress.json").is_file():
        (folder / "reached").touch()
        sys.stdin.read()
learn([task("colours"), task("sounds")], base, folder / "out", store=folder / "store", training=TRAINING, share=0.5,
      plot=False, progress=progress)
"""


@pytest.mark.parametrize("stop", ["training", "measuring"])
def test_a_killed_run_goes_on_after_the_last_finished_task(base, tmp_path, learned, stop, monkeypatch):
    environment = {**os.environ, "SKILLPACK_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", SCRIPT, str(base), str(tmp_path), stop]
    running = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 400
    while not (tmp_path / "reached").exists():
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    running.communicate()
    assert [each.name for each in skillpack.list(store=tmp_path / "store")] == ["colours"]
    trained = []
    monkeypatch.setattr(module, "fine_tune", lambda *args, **options: trained.append(1) or fine_tune(*args, **options))
    report = learn([task("colours"), task("sounds")], base, tmp_path / "out", store=tmp_path / "store", **OPTIONS)
    assert (report.resumed, len(trained)) == (1, 1)
    # Whatever was interrupted, the skills are those of a run that was not.
    assert report.tasks == learned[1].tasks
    assert report.named == learned[1].named
    assert not list((tmp_path / "out" / "unfinished").iterdir())


def test_training_does_not_touch_the_callers_random_numbers(base, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fine_tune(base, task("colours").training, tmp_path / "one", Training(steps=2, batch=2))
    assert torch.equal(torch.rand(3), expected)
    fine_tune(base, task("colours").training, tmp_path / "two", Training(steps=2, batch=2))
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_every_answer_is_told_apart():
    assert len({word for answers in ANSWERS.values() for word in answers}) == 12
