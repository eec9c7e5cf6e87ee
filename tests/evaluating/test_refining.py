"""Rounding errors that cancel out where it matters to what the fine-tune predicts."""

from __future__ import annotations

import resource
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.codecs.lowrank import LowRank
from skillpack.delta import find_delta
from skillpack.errors import DataError, UsageError
from skillpack.evaluating.trials import Trials, open_trials
from skillpack.live.models import open_model, open_tokenizer
from skillpack.packing import planning, taught
from skillpack.packing.divergence import Candidates
from skillpack.packing.lessons import Lessons
from skillpack.packing.packer import Goal, Packer
from skillpack.packing.refining import _movable, _Tensor, refine
from skillpack.progress import Stage, silent
from skillpack.texts import Sample
from tests.live import models

pytestmark = pytest.mark.usefixtures("room")

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
SIZE = 4200
"""Bytes of a skill for which columns are better kept as far down as usual."""
STAGE = Stage(silent, "learning", 1)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A tiny Llama and a fine-tune that has learned texts of one kind; texts of that kind."""
    root = tmp_path_factory.mktemp("learned")
    texts = [f"{one} and {other} are numbers." for one in WORDS for other in WORDS]
    base = models.llama(root / "base", torch_dtype="bfloat16")
    tuned = models.trained(base, root / "tuned", texts[::2], steps=60)
    return base, tuned, [Sample(text=text) for text in texts[1::2]]


@pytest.fixture
def pack(learned, tmp_path):
    base, tuned, texts = learned

    def run(name="refined", calibration=texts[:40], **arguments):
        return skillpack.pack(base, tuned, name, calibration=calibration, store=tmp_path / "store", **arguments)

    return run


def kl(learned, name, store):
    base, tuned, texts = learned
    return skillpack.evaluate(name, base, tuned, texts[40:], store=store, tensors=False).kl


def test_a_refined_skill_is_closer_on_other_texts(learned, pack, tmp_path, room):
    plain = skillpack.pack(*learned[:2], "plain", quality=0.95, store=tmp_path / "store")
    refined = pack(quality=0.95, refine=6)
    assert refined.size < 1.1 * plain.size
    assert kl(learned, "refined", tmp_path / "store") < 0.8 * kl(learned, "plain", tmp_path / "store")
    assert list(room.iterdir()) == []


def test_a_size_is_kept(pack):
    size = pack(quality=0.95, dry_run=True, refine=2).size
    assert 0.9 * size < pack(size=size, refine=5).size <= size


def test_a_refined_skill_within_a_divergence_is_smaller(learned, pack):
    plain = pack("plain", max_kl=0.01, refine=0, dry_run=True)
    refined = pack(max_kl=0.01, refine=6, dry_run=True)
    assert refined.measured.upper <= 0.01
    assert refined.size < plain.size


def test_the_same_texts_give_the_same_skill(pack):
    assert pack(refine=3).digest == pack(refine=3).digest


def test_what_does_not_help_is_dropped(pack, monkeypatch):
    move = _Tensor.move
    monkeypatch.setattr(_Tensor, "move", lambda self, length: move(self, -300 * length))
    spoiled = pack(refine=3, quality=0.95)
    plain = pack("plain", refine=0, quality=0.95)
    assert spoiled.digest == plain.digest


def test_texts_are_learned_from_unless_that_is_declined(pack):
    usual, three, none = pack(), pack("three", refine=3), pack("none", refine=0)
    assert usual.digest == three.digest != none.digest
    assert usual.measured.kl < none.measured.kl


@pytest.mark.parametrize("swapped", [False, True])
def test_texts_choose_how_far_down_columns_are_kept(pack, monkeypatch, swapped):
    usual = LowRank().keep
    if swapped:
        monkeypatch.setattr(planning, "_LINEAR", LowRank(keep=taught.FARTHER))
        monkeypatch.setattr(taught, "FARTHER", usual)
    found = pack(size=SIZE, dry_run=True)
    monkeypatch.setattr(planning, "_LINEAR", LowRank(keep=usual))
    assert columns(found) == pytest.approx(columns(pack(size=SIZE, dry_run=True, refine=0)), rel=0.05)
    monkeypatch.setattr(planning, "_LINEAR", LowRank(keep=0.05))
    assert columns(found) != pytest.approx(columns(pack(size=SIZE, dry_run=True, refine=0)), rel=0.05)


def columns(report):
    return sum(sum(entry.main.parameters.get("columns", [])) for entry in report.manifest.tensors)


def test_few_files_are_open_at_a_time(pack):
    """Of every tensor there are a dozen arrays in files."""
    usual, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 16, most))
    try:
        pack(quality=0.95)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, most))


def test_few_texts_are_only_weighed_by(learned, pack):
    few = learned[2][:7]
    assert pack(calibration=few).digest == pack("none", calibration=few, refine=0).digest


def test_wrong_requests(learned, pack):
    with pytest.raises(DataError, match="7 samples are too few"):
        pack(refine=3, calibration=learned[2][:7])
    with pytest.raises(UsageError, match="nothing to refine"):
        pack(refine=3, exact=True)
    with pytest.raises(UsageError, match="nothing to refine"):
        pack(refine=-1)


@pytest.fixture
def parts(learned, tmp_path):
    """A packed model in memory, the fine-tune, and the plans that gains are learned for."""
    base, tuned, texts = learned
    packer = Packer(find_delta(open_checkpoint(base), open_checkpoint(tuned)), Goal(quality=0.95))
    packed = packer.pack()
    trials = open_trials(base, tuned, texts[:16], tmp_path, learn=True)
    model = Candidates(trials, base, tmp_path).opened(packed)
    with closing(packed.payload):
        yield packer, packed, model, trials


def lessons(trials):
    return Lessons(trials.tuned, trials.lessons)


def look_ahead(texts, model, tensors):
    """The divergence, whose gradient becomes the tensors' `ahead`."""

    def sink(name, gradient):
        if name in tensors:
            tensors[name].add_gradient(gradient)

    kl = texts.kl_with_gradients(model, sink, STAGE)
    for tensor in tensors.values():
        tensor.project()
    return kl


def tensors(packer, model, step):
    weights = dict(model.named_parameters())
    found = {plan.change.name: _Tensor(plan, weights[plan.change.name]) for plan in _movable(packer, weights)}
    return {name: tensor for name, tensor in found.items() if tensor.take(step)}


def test_gradients_are_slopes_of_the_divergence(parts):
    packer, packed, model, trials = parts
    found, texts = tensors(packer, model, packed.step), lessons(trials)
    assert len(found) > 5
    start = look_ahead(texts, model, found)
    assert start == pytest.approx(texts.kl(model, STAGE), rel=1e-4)
    for tensor in found.values():
        tensor.arrive(1.0)
        gradient = tensor.gradient.clone()
        tensor.turn(0.0)
        assert torch.equal(tensor.direction, -gradient)
        length = 0.02 * start / float(gradient.square().sum())
        tensor.move(length)
        tensor.show()
        above = texts.kl(model, STAGE)
        tensor.move(-2 * length)
        tensor.show()
        below = texts.kl(model, STAGE)
        tensor.move(length)
        tensor.show()
        assert (above - below) / (2 * length) == pytest.approx(-float(gradient.square().sum()), rel=0.05)


def test_live_weights_are_what_an_install_writes_and_what_is_moved_is_rounded(learned, parts, tmp_path):
    packer, packed, model, trials = parts
    before = {plan.change.name: plan.factors(packed.step) for plan in packer.lossy}
    refine(packer, packed.step, model, [lessons(trials)], rounds=3)
    after = {plan.change.name: plan.factors(packed.step) for plan in packer.lossy}
    changed = [name for name, was in before.items() if was is not None and (was.left != after[name].left).any()]
    assert len(changed) > 5
    for name in changed:
        steps = after[name].left - before[name].left
        # Whole steps, and few of them.
        np.testing.assert_allclose(steps, np.rint(steps), atol=0.1)
        assert np.count_nonzero(np.abs(steps) > 0.5) < 0.2 * steps.size
    again = packer.coded_at(packed.step)
    with closing(again.payload):
        other = Candidates(trials, learned[0], tmp_path).opened(again)
    installed = {name: weight.float() for name, weight in other.named_parameters()}
    found = tensors(packer, model, packed.step)
    for name, weight in model.named_parameters():
        if name in found:
            torch.testing.assert_close(weight.float(), installed[name], rtol=0.01, atol=1e-4)
    packer.restore()
    back = packer.coded_at(packed.step)
    with closing(back.payload):
        assert back.manifest == packed.manifest


def test_lessons_are_not_measured(learned):
    _, tuned, texts = learned
    trials = Trials(open_model(tuned), open_tokenizer(tuned), texts[:40], learn=True)
    assert sum(len(batch.input_ids) for batch in trials.lessons) == 30
    assert trials.measure(open_model(tuned)).samples == 10
    assert trials.measure(open_model(tuned)).kl == 0
