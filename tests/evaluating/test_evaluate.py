"""Evaluations against figures that transformers gives, and by skills of which the answer is known."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import peft
import pytest
import torch
import transformers

import skillpack
from skillpack.errors import CheckpointError, DataError, NotFiniteError, UnsupportedCheckpointError, WrongBaseError
from skillpack.texts import Sample
from tests.live import models

pytestmark = pytest.mark.usefixtures("room")


def chat(prompt, answer=None):
    turns = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return Sample(messages=turns if answer is not None else turns[:1])


def test_an_exact_skill_is_the_fine_tune(llama, texts, room):
    report = skillpack.evaluate("exact", llama.base, llama.tuned, texts, store=llama.store)
    assert (report.skill, report.task, report.samples) == ("exact", "next token", 4)
    assert report.tokens == sum(len(text.text.encode()) - 1 for text in texts)
    assert (report.kl, report.kl_interval) == (0, (0, 0))
    assert (report.agreement, report.agreement_interval) == (1, (1, 1))
    assert (report.kept, report.kept_interval) == (1, (1, 1))
    assert report.perplexity.packed == report.perplexity.tuned < report.perplexity.base
    assert {share.kl for share in report.tensors} == {0.0}
    assert report.accuracy is None
    assert report.remarks == ()
    assert list(room.iterdir()) == []


def logits_of(folder, text):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = models.tokenizer()(text, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).logits[0, :-1].double().log_softmax(-1), ids[0, 1:]


def test_figures_are_those_of_transformers(llama, texts, tmp_path):
    report = skillpack.evaluate("rough", llama.base, llama.tuned, texts, store=llama.store)
    skillpack.install("rough", llama.base, output=tmp_path / "packed", store=llama.store)
    kl, agrees, nll = [], [], {"base": [], "packed": [], "tuned": []}
    for text in texts:
        found = {
            name: logits_of(folder, text.text)
            for name, folder in (("base", llama.base), ("packed", tmp_path / "packed"), ("tuned", llama.tuned))
        }
        (packed, targets), (tuned, _) = found["packed"], found["tuned"]
        kl += (tuned.exp() * (tuned - packed)).sum(-1).tolist()
        agrees += (tuned.argmax(-1) == packed.argmax(-1)).tolist()
        for name, (logits, _) in found.items():
            nll[name] += (-logits[torch.arange(len(targets)), targets]).tolist()
    mean = {name: np.mean(values) for name, values in nll.items()}
    assert report.kl > 1e-4
    assert report.kl == pytest.approx(np.mean(kl), rel=1e-3)
    assert report.agreement == pytest.approx(np.mean(agrees))
    assert report.perplexity._asdict() == pytest.approx(
        {name: math.exp(value) for name, value in mean.items()}, rel=1e-4
    )
    kept = (mean["base"] - mean["packed"]) / (mean["base"] - mean["tuned"])
    assert report.kept == pytest.approx(kept, rel=1e-3)
    for value, interval in (
        (report.kl, report.kl_interval),
        (report.agreement, report.agreement_interval),
        (report.kept, report.kept_interval),
    ):
        assert interval[0] <= value <= interval[1]
        assert interval[0] < interval[1]


def test_a_better_skill_measures_better(llama, texts):
    rough, fine = (
        skillpack.evaluate(name, llama.base, llama.tuned, texts, store=llama.store) for name in ("rough", "fine")
    )
    assert fine.kl < 0.5 * rough.kl
    assert abs(1 - fine.kept) < abs(1 - rough.kept)
    total = sum(share.kl for share in fine.tensors)
    assert total == pytest.approx(fine.kl, rel=0.4)
    assert [share.kl for share in fine.tensors] == sorted((share.kl for share in fine.tensors), reverse=True)


def test_nothing_kept_at_weight_zero(llama, texts):
    """A skill at a vanishing weight leaves the base."""
    report = skillpack.evaluate("rough=1e-9", llama.base, llama.tuned, texts, store=llama.store, tensors=False)
    assert report.kept == pytest.approx(0, abs=1e-6)
    assert report.perplexity.packed == pytest.approx(report.perplexity.base)
    assert report.tensors == ()


def test_batches_do_not_change_the_figures(llama, texts, monkeypatch):
    whole = skillpack.evaluate("rough", llama.base, llama.tuned, texts, store=llama.store)
    monkeypatch.setattr("skillpack.evaluating.comparison._BATCH_TOKENS", 1)
    single = skillpack.evaluate("rough", llama.base, llama.tuned, texts, store=llama.store, max_tokens=40)
    assert single.kl == pytest.approx(whole.kl, rel=1e-4)
    assert single.kl_interval == pytest.approx(whole.kl_interval, rel=1e-4)
    assert {share.name: share.kl for share in single.tensors} == pytest.approx(
        {share.name: share.kl for share in whole.tensors}, rel=1e-2, abs=1e-7
    )


def test_answers_count_and_prompts_are_answered_by_the_fine_tune(llama, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": "a", "completion": "bcd"}, {"prompt": "Which?"}]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with_answer = skillpack.evaluate("rough", llama.base, llama.tuned, data, store=llama.store, samples=1)
    assert (with_answer.samples, with_answer.tokens) == (1, 4)
    report = skillpack.evaluate("exact", llama.base, llama.tuned, str(data), store=llama.store)
    assert report.samples == 2
    assert report.tokens > 5
    assert report.kl == 0


def test_what_has_nothing_to_measure_is_said(llama):
    long = chat("x" * 80, "y")
    report = skillpack.evaluate(
        "exact", llama.base, llama.tuned, [chat("a", "b"), long], store=llama.store, max_tokens=60
    )
    assert (report.samples, report.remarks[0]) == (1, "1 samples have nothing to measure within 60 tokens")
    with pytest.raises(DataError, match="no answer begins within 60 tokens"):
        skillpack.evaluate("exact", llama.base, llama.tuned, [long], store=llama.store, max_tokens=60)


def test_a_fine_tune_that_gains_nothing(llama, texts, tmp_path):
    skillpack.pack(llama.tuned, llama.base, "swapped", exact=True, store=tmp_path / "store")
    report = skillpack.evaluate("swapped", llama.tuned, llama.base, texts, store=tmp_path / "store")
    assert (report.kept, report.kept_interval) == (None, None)
    assert "no gain to keep" in report.remarks[0]


def test_progress_comes_to_its_end(llama, texts):
    seen = {}

    def progress(done, total, what):
        assert done <= total
        seen[what] = (done, total)

    skillpack.evaluate("fine", llama.base, llama.tuned, texts, store=llama.store, progress=progress)
    assert {"comparing", "measuring the base"} <= set(seen)
    assert all(done == total for done, total in seen.values())


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_is_a_fine_tune_too(llama, texts, tmp_path):
    base = transformers.AutoModelForCausalLM.from_pretrained(llama.base, dtype=torch.bfloat16)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0.0, 0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    skillpack.pack(llama.base, tmp_path / "adapter", "lora", exact=True, store=tmp_path / "store")
    report = skillpack.evaluate("lora", llama.base, tmp_path / "adapter", texts, store=tmp_path / "store")
    assert report.kl == 0
    assert report.perplexity.base != report.perplexity.tuned


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """An encoder without a head, a classifier on it, and a lossy skill."""
    root = tmp_path_factory.mktemp("classifier")
    base = models.bert(root / "base", "BertModel")
    torch.manual_seed(1)
    model = transformers.BertForSequenceClassification.from_pretrained(
        base, num_labels=3, id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2}
    )
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.add_(0.1 * torch.randn(32, 48))
        model.classifier.weight.normal_()
    models.save(root / "tuned", model, torch.float32)
    skillpack.pack(base, root / "tuned", "reviews", quality=0.2, store=root / "store")
    return root


def test_a_classifier(classifier, texts):
    labelled = [Sample(text=text.text, label=label) for text, label in zip(texts, ["bad", 1, 2, "good"], strict=True)]
    report = skillpack.evaluate(
        "reviews", classifier / "base", classifier / "tuned", labelled, store=classifier / "store"
    )
    assert (report.task, report.samples, report.tokens) == ("class", 4, 4)
    assert report.kl > 0
    assert report.perplexity is None
    model = transformers.BertForSequenceClassification.from_pretrained(classifier / "tuned").eval()
    with torch.no_grad():
        predicted = [model(**models.tokenizer()(text.text, return_tensors="pt")).logits.argmax() for text in texts]
    expected = np.mean([found == label for found, label in zip(predicted, [0, 1, 2, 2], strict=True)])
    assert report.accuracy.tuned == pytest.approx(expected)
    assert report.accuracy.base is None
    assert report.kept is None
    assert report.remarks == (
        "the base is not measured: it is a BertModel, the fine-tune a BertForSequenceClassification",
    )
    assert {share.name for share in report.tensors} == {name for name, _ in model.named_parameters()}


def test_a_classifier_without_labels(classifier, texts):
    report = skillpack.evaluate("reviews", classifier / "base", classifier / "tuned", texts, store=classifier / "store")
    assert report.accuracy is None
    for labels, problem in (
        ([0, None, 1, 2], "3 of 4 samples have a label"),
        ([0, 1, 2, 3], "3 is no class"),
        (["bad", "bad", "bad", "awful"], "'awful' is no class"),
    ):
        labelled = [Sample(text=text.text, label=label) for text, label in zip(texts, labels, strict=True)]
        with pytest.raises(DataError, match=problem):
            skillpack.evaluate(
                "reviews", classifier / "base", classifier / "tuned", labelled, store=classifier / "store"
            )


def test_models_that_predict_nothing(classifier, texts, tmp_path):
    moved = models.moved(classifier / "base", tmp_path / "moved")
    skillpack.pack(classifier / "base", moved, "encoder", store=tmp_path / "store")
    with pytest.raises(UnsupportedCheckpointError, match="BertModel cannot be measured"):
        skillpack.evaluate("encoder", classifier / "base", moved, texts, store=tmp_path / "store")


def test_models_that_do_not_fit(llama, classifier, texts, tmp_path):
    with pytest.raises(CheckpointError, match="a LlamaForCausalLM of the base, the fine-tune is a BertForSequence"):
        skillpack.evaluate("rough", llama.base, classifier / "tuned", texts, store=llama.store)
    other = models.llama(tmp_path / "other", intermediate_size=64)
    with pytest.raises(CheckpointError, match=r"does not have the tensors of the fine-tune: .*mlp"):
        skillpack.evaluate("rough", llama.base, other, texts, store=llama.store)
    with pytest.raises(WrongBaseError):
        skillpack.evaluate("rough", llama.tuned, llama.tuned, texts, store=llama.store)


def test_grown_vocabulary(llama, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(llama.tuned, dtype=torch.bfloat16)
    model.resize_token_embeddings(models.VOCABULARY + 2, mean_resizing=False)
    tokenizer = models.tokenizer()
    tokenizer.add_tokens(["<new>"])
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    skillpack.pack(llama.base, tmp_path / "tuned", "grown", exact=True, store=tmp_path / "store")
    new, old = [Sample(text="a<new>b")], [Sample(text="Some are useful: 12 of 31.")]
    report = skillpack.evaluate("grown", llama.base, tmp_path / "tuned", new, store=tmp_path / "store")
    assert (report.kl, report.perplexity.base, report.kept) == (0, None, None)
    assert report.remarks == ("the base is not measured: the texts have tokens that only the fine-tune knows",)
    report = skillpack.evaluate("grown", llama.base, tmp_path / "tuned", old, store=tmp_path / "store")
    assert report.perplexity.base > report.perplexity.tuned


def test_nan_is_an_error(llama, texts, tmp_path):
    shutil.copytree(llama.tuned, tmp_path / "tuned")
    model = transformers.AutoModelForCausalLM.from_pretrained(llama.tuned, dtype=torch.bfloat16)
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    model.save_pretrained(tmp_path / "tuned")
    skillpack.pack(llama.base, tmp_path / "tuned", "nan", exact=True, store=tmp_path / "store")
    with pytest.raises(NotFiniteError, match="predicts NaN"):
        skillpack.evaluate("nan", llama.base, tmp_path / "tuned", texts, store=tmp_path / "store")


def test_a_classifier_on_a_decoder(llama, texts, tmp_path):
    """Such a classifier reads the last token, which it finds by the padding token of its configuration."""
    found = {}
    for name, padding in (("padded", 257), ("single", None), ("strange", 5)):
        model = transformers.LlamaForSequenceClassification.from_pretrained(llama.base, num_labels=3)
        torch.manual_seed(0)
        model.score.weight.data.normal_()
        model.config.pad_token_id = padding
        tuned = models.save(tmp_path / name, model, torch.bfloat16)
        skillpack.pack(llama.base, tuned, name, exact=True, store=tmp_path / "store")
        labelled = [Sample(text=text.text, label=place % 3) for place, text in enumerate(texts)]
        report = skillpack.evaluate(name, llama.base, tuned, labelled, store=tmp_path / "store")
        assert report.kl == 0
        found[name] = report.accuracy.tuned
        with torch.no_grad():
            logits = [model(**models.tokenizer()(text.text, return_tensors="pt")).logits.argmax() for text in texts]
        assert found[name] == np.mean([int(label) == place % 3 for place, label in enumerate(logits)])
