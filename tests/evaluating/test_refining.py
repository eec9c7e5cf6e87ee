"""Gains that are learned from what the fine-tune predicts."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.delta import find_delta
from skillpack.errors import DataError, UsageError
from skillpack.evaluating.scores import divergence
from skillpack.evaluating.trials import Trials, open_trials
from skillpack.live.models import open_model, open_tokenizer
from skillpack.live.predictions import predict
from skillpack.packing.divergence import Candidates
from skillpack.packing.packer import Goal, Packer
from skillpack.packing.refining import _add_gradients, _Column, learned_gains
from skillpack.texts import Sample
from tests.live import models

pytestmark = pytest.mark.usefixtures("room")

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


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
    refined = pack(quality=0.95, refine=20)
    assert refined.size < 1.1 * plain.size
    assert kl(learned, "refined", tmp_path / "store") < 0.8 * kl(learned, "plain", tmp_path / "store")
    assert list(room.iterdir()) == []


def test_a_size_is_kept(pack):
    size = pack(quality=0.95, dry_run=True, refine=2).size
    assert 0.9 * size < pack(size=size, refine=5).size <= size


def test_a_refined_skill_within_a_divergence_is_smaller(learned, pack):
    plain = pack("plain", max_kl=0.01, refine=0, dry_run=True)
    refined = pack(max_kl=0.01, refine=20, dry_run=True)
    assert refined.measured.upper <= 0.01
    assert refined.size < plain.size


def test_the_same_texts_give_the_same_skill(pack):
    assert pack(refine=3).digest == pack(refine=3).digest


def test_what_does_not_help_is_dropped(pack, monkeypatch):
    monkeypatch.setattr("skillpack.packing.refining._RATE", 5.0)
    spoiled = pack(refine=2, quality=0.99)
    plain = pack("plain", quality=0.99)
    assert spoiled.digest == plain.digest


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
    with Candidates(trials, base, tmp_path).installed(packed) as folder:
        model = open_model(folder)
    packed.payload.close()
    return packer, packed, model, trials


def test_gradients_are_slopes_of_the_divergence(parts):
    packer, packed, model, trials = parts
    weights = dict(model.named_parameters())
    plan = next(plan for plan in packer.lossy if "proj" in plan.change.name and plan.factors(packed.step) is not None)
    column = _Column(plan, packed.step, weights[plan.change.name])
    batch = trials.lessons[0]
    _add_gradients(model, trials.tuned, batch, {plan.change.name: column})

    def loss(at, gain):
        with torch.no_grad():
            column.gains[at] = gain
            column.write()
            found = divergence(predict(model, batch), predict(trials.tuned, batch)).kl.mean()
            column.gains[at] = 1.0
        return float(found)

    found = column.gains.grad.numpy()
    slopes = np.array([loss(at, 1.5) - loss(at, 0.5) for at in range(len(found))])
    # A difference over so wide a step is near the slope, no more; bf16 weights forbid narrower ones.
    assert np.corrcoef(found, slopes)[0, 1] > 0.9
    np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(slopes), rtol=0.5)


def test_live_weights_become_what_an_install_writes(learned, parts, tmp_path):
    packer, packed, model, trials = parts
    gains = learned_gains(
        packer.lossy, packed.step, model, trials.tuned, batches=trials.lessons, rounds=3, progress=lambda *_: None
    )
    assert len(gains) > 5
    assert gains.keys() <= {plan.change.name for plan in packer.lossy}
    assert any(any(units) for units in gains.values())
    packer.set_gains(gains)
    again = packer.coded_at(packed.step)
    with closing(again.payload), Candidates(trials, learned[0], tmp_path).installed(again) as folder:
        installed = {name: weight.float() for name, weight in open_model(folder).named_parameters()}
    for name, weight in model.named_parameters():
        # Gains are rounded to 1/128 and weights to bf16.
        torch.testing.assert_close(weight.float(), installed[name], rtol=0.01, atol=0.01)


def test_lessons_are_not_measured(learned):
    _, tuned, texts = learned
    trials = Trials(open_model(tuned), open_tokenizer(tuned), texts[:40], learn=True)
    assert sum(len(batch.input_ids) for batch in trials.lessons) == 30
    assert trials.measure(tuned).samples == 10
    assert trials.measure(tuned).kl == 0
