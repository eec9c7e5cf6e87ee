"""Gain kept and flips, against what the models answer when they are asked."""

from __future__ import annotations

import math
import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import skillpack
from skillpack.errors import DataError, UsageError
from skillpack.live.models import open_model, open_tokenizer
from skillpack.rebasing.flips import _flips, _kept
from skillpack.texts import Sample
from tests.live import models

PAIRS = [("1+1", "2"), ("2+1", "3"), ("2+2", "4"), ("a", "b"), ("b", "c"), ("hi", "yo"), ("up", "no"), ("x", "yz")]


def chat(question, answer=None):
    turns = [{"role": "user", "content": question}]
    return Sample(messages=(*turns, *([{"role": "assistant", "content": answer}] if answer else [])))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny Llama, a skill that knows some answers, and a base that moved so far that some are lost."""
    root = tmp_path_factory.mktemp("flips")
    tokenizer = models.tokenizer()
    texts = [tokenizer.apply_chat_template(list(chat(*pair).messages), tokenize=False) for pair in PAIRS]
    base = models.llama(root / "base")
    tuned = models.trained(base, root / "tuned", texts, steps=110)
    skillpack.pack(base, tuned, "tiny", exact=True, store=root / "store")
    return SimpleNamespace(base=base, new=models.moved(base, root / "new", 0.09), store=root / "store", root=root)


@pytest.fixture
def room(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def rebase(llama, data, onto=None, **options):
    options = {"dry_run": True, "base": llama.base, **options}
    return skillpack.rebase("tiny", onto or llama.new, data=data, store=llama.store, **options).flips


def answered(folder, question):
    """What a model writes when it is asked, with its most likely tokens."""
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    prompt = tokenizer.apply_chat_template(
        list(chat(question).messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        written = model.generate(**prompt, max_new_tokens=6, do_sample=False)
    return tokenizer.decode(written[0, prompt["input_ids"].shape[1] :]).partition("<|im_end|>")[0]


def test_flips_are_answers_that_change(llama, room, tmp_path):
    found = rebase(llama, [chat(*pair) for pair in PAIRS])
    assert list(room.iterdir()) == []
    skillpack.install("tiny", llama.base, output=tmp_path / "old", store=llama.store)
    skillpack.rebase("tiny", llama.new, base=llama.base, name="moved", store=llama.store)
    skillpack.install("moved", llama.new, output=tmp_path / "new", store=llama.store)
    right = {
        name: np.array([answered(folder, question) == answer for question, answer in PAIRS])
        for name, folder in (
            ("old_base", llama.base),
            ("old", tmp_path / "old"),
            ("new_base", llama.new),
            ("new", tmp_path / "new"),
        )
    }
    assert found.right._asdict() == {name: values.mean() for name, values in right.items()}
    assert found.negative == (right["old"] & ~right["new"]).mean()
    assert found.positive == (right["new"] & ~right["old"]).mean()
    assert 0 < found.negative < 1
    assert found.negative_interval[0] <= found.negative <= found.negative_interval[1]
    assert found.samples == len(PAIRS)


def test_gain_kept_is_that_of_two_evaluations(llama, room, tmp_path):
    texts = [chat(*pair) for pair in PAIRS]
    found = rebase(llama, texts)
    skillpack.install("tiny", llama.base, output=tmp_path / "old", store=llama.store)
    skillpack.rebase("tiny", llama.new, base=llama.base, name="again", store=llama.store)
    skillpack.install("again", llama.new, output=tmp_path / "new", store=llama.store)
    report = skillpack.evaluate("again", llama.new, tmp_path / "old", texts, store=llama.store, tensors=False)
    assert found.kl == pytest.approx(report.kl, rel=1e-4)
    assert found.agreement == pytest.approx(report.agreement)
    nll = {name: math.log(value) for name, value in report.perplexity._asdict().items()}
    assert (found.nll.old, found.nll.new, found.nll.new_base) == pytest.approx(
        (nll["tuned"], nll["packed"], nll["base"]), rel=1e-4
    )
    gains = found.nll.old_base - found.nll.old, found.nll.new_base - found.nll.new
    assert found.kept == pytest.approx(gains[1] / gains[0])
    assert found.kept_interval[0] < found.kept < found.kept_interval[1]


def test_onto_the_same_base_nothing_flips(llama, room):
    found = rebase(llama, [chat(*pair) for pair in PAIRS], llama.base)
    assert (found.kl, found.agreement, found.kept, found.negative, found.positive) == (0, 1, 1, 0, 0)
    assert found.right.old == found.right.new > found.right.old_base


def test_prompts_are_answered_by_the_old_base_with_the_skill(llama, room):
    found = rebase(llama, [chat(question) for question, _ in PAIRS])
    assert found.right.old == 1
    assert found.negative == 1 - found.right.new
    assert found.positive == 0


def test_plain_texts_cannot_be_right(llama, room):
    found = rebase(llama, [Sample(text="All models are wrong.")])
    assert (found.right, found.negative, found.positive_interval) == (None, None, None)
    assert any("nothing can be right or wrong" in remark for remark in found.remarks)
    both = rebase(llama, [Sample(text="All models are wrong."), *(chat(*pair) for pair in PAIRS)])
    assert both.negative == rebase(llama, [chat(*pair) for pair in PAIRS]).negative
    assert any("1 plain texts have no answer" in remark for remark in both.remarks)


def test_texts_that_the_new_base_cuts_differently(llama, room, tmp_path):
    other = models.moved(llama.base, tmp_path / "other", 0.02)
    models.tokenizer(models.CHATML.replace("\n{% endfor", " {% endfor")).save_pretrained(other)
    with pytest.raises(DataError, match="other tokens"):
        rebase(llama, [chat(*pair) for pair in PAIRS], other)


def test_texts_need_the_old_base(llama):
    with pytest.raises(UsageError, match="beside the old one"):
        rebase(llama, [chat("a", "b")], base=None)


def test_a_classifier(room, tmp_path):
    base = models.bert(tmp_path / "base")
    tuned, new = models.moved(base, tmp_path / "tuned", 0.3), models.moved(base, tmp_path / "new", 0.3, seed=5)
    skillpack.pack(base, tuned, "sorts", exact=True, store=tmp_path / "store")
    texts = [Sample(text=f"text {number}", label=number % 3) for number in range(12)]
    found = skillpack.rebase("sorts", new, base=base, data=texts, store=tmp_path / "store", dry_run=True).flips
    assert (found.task, found.samples, found.tokens) == ("class", 12, 12)
    report = skillpack.evaluate("sorts", base, tuned, texts, store=tmp_path / "store", tensors=False)
    assert (found.right.old_base, found.right.old) == pytest.approx((report.accuracy.base, report.accuracy.tuned))
    assert found.right.new == pytest.approx(found.right.old - found.negative + found.positive)


def test_the_rates_by_hand():
    right = {"old": np.array([1, 1, 0, 0], bool), "new": np.array([1, 0, 1, 0], bool)}
    assert _flips(right, "old", "new")[0] == _flips(right, "new", "old")[0] == 0.25
    assert _flips({}, "old", "new") == (None, None)
    mean = {"nll old_base": 4.0, "nll old": 2.0, "nll new_base": 3.0, "nll new": 2.0}
    totals = {name: np.full(3, value) for name, value in mean.items()}
    assert _kept(mean, totals, []) == (0.5, (0.5, 0.5))
    remarks = []
    assert _kept({**mean, "nll old": 4.0}, totals, remarks) == (None, None)
    assert remarks
