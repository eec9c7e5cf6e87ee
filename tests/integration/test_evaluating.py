"""Opening real models and measuring their skills."""

from __future__ import annotations

import os
import sys

import pytest
import torch

import skillpack
from benchmarks.folders import WEIGHTS
from benchmarks.process import run
from recipes.finetune import DRUG_REVIEWS, fine_tune
from recipes.measure import HeldOut, predicted_labels
from recipes.models import minilm, smollm2
from recipes.tasks import TASKS, drug_reviews
from skillpack.evaluating.scores import divergence
from skillpack.live.batches import encode
from skillpack.live.models import open_model, open_tokenizer
from skillpack.live.predictions import predict
from skillpack.texts import Sample

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]

TEXT = "The base is never changed: a managed model is a function of its base and of the skills on it."


def held_out(count):
    """Held-out prompts with their answers, as samples and as the recipes have them."""
    exchanges = TASKS["spanish-numbers"].held_out()[:count]
    samples = [
        Sample(messages=({"role": "user", "content": one.prompt}, {"role": "assistant", "content": one.answer}))
        for one in exchanges
    ]
    return samples, exchanges


@pytest.mark.parametrize(
    ("find", "task"), [(smollm2, "CausalLM"), (lambda: fine_tune(DRUG_REVIEWS), "SequenceClassification")]
)
def test_logits_of_real_models(find, task):
    import transformers

    folder = find()
    expected = getattr(transformers, f"AutoModelFor{task}").from_pretrained(folder, dtype=torch.float32).eval()
    (batch,) = encode([Sample(text=TEXT)], open_tokenizer(folder), 64, 64, whole=task != "CausalLM")
    with torch.no_grad():
        found = predict(open_model(folder), batch)
        wanted = predict(expected, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


SCRIPT = """
import sys, torch, transformers, transformers.models.llama.modeling_llama
from skillpack.live.models import open_model, open_tokenizer
from skillpack.live.batches import encode
from skillpack.live.predictions import predict
from skillpack.live.precision import weight_gradients
from skillpack.texts import Sample
torch.set_num_threads(1)
torch.randn(64, 64, requires_grad=True).matmul(torch.randn(64, 64)).sum().backward()
tokenizer = open_tokenizer(sys.argv[1])
if sys.argv[2] != "nothing":
    model = open_model(sys.argv[1])
    (batch,) = encode([Sample(text="a b c d e f g h")], tokenizer, 64, 64)
    if sys.argv[2] == "forward":
        with torch.no_grad():
            predict(model, batch)
    else:
        with weight_gradients(model, lambda name, gradient: None):
            predict(model, batch).square().sum().backward()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_weights_take_no_memory():
    """What is held beside the file is a widened weight or two at a time, backwards too."""
    model = (smollm2() / WEIGHTS).stat().st_size
    largest = 4 * 49_152 * 576
    # What is freed goes back to the system at once, so that only what is held is counted.
    environment = {"MALLOC_MMAP_THRESHOLD_": "131072", "PYTHONPATH": os.pathsep.join(sys.path)}
    peaks = {
        what: run([sys.executable, "-c", SCRIPT, str(smollm2()), what], environment).anonymous
        for what in ("nothing", "forward", "backward")
    }
    assert peaks["forward"] - peaks["nothing"] < 1.5 * largest < 0.7 * model
    # The gradient of the embedding beside the embedding; fp32 weights alone would take twice the model.
    assert peaks["backward"] - peaks["nothing"] < 2.5 * largest < 1.1 * model


def test_figures_are_those_of_the_benchmark(smol):
    samples, exchanges = held_out(40)
    report = skillpack.evaluate("spanish", smol.base, smol.spanish, samples, store=smol.store)
    measure = HeldOut(smol.base, smol.spanish, exchanges)
    assert (report.samples, report.tokens) == (40, measure.tokens)
    model = open_model(smol.spanish)
    assert report.perplexity.tuned == pytest.approx(torch.tensor(measure.tuned_nll).exp().item(), rel=1e-3)
    assert report.perplexity.base == pytest.approx(torch.tensor(measure.base_nll).exp().item(), rel=1e-3)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert 0 < report.kl < 0.01
    assert report.kl_interval[0] < report.kl < report.kl_interval[1]
    assert report.kept >= 0.99
    assert sum(share.kl for share in report.tensors) == pytest.approx(report.kl, rel=0.25)
    assert len(report.tensors) == 272


def test_an_exact_skill_costs_nothing(smol, room):
    skillpack.pack(smol.base, smol.spanish, "exact", exact=True, store=room / "store")
    samples, _ = held_out(8)
    report = skillpack.evaluate("exact", smol.base, smol.spanish, samples, store=room / "store", tensors=False)
    assert (report.kl, report.agreement, report.kept) == (0, 1, 1)


def test_a_real_classifier(room):
    tuned = fine_tune(DRUG_REVIEWS)
    skillpack.pack(minilm(), tuned, "reviews", size=1_000_000, store=room / "store")
    reviews = drug_reviews("Test")
    samples = [Sample(text=review.text, label=review.label) for review in reviews]
    report = skillpack.evaluate("reviews", minilm(), tuned, samples, store=room / "store", max_tokens=96)
    predicted = predicted_labels(tuned)
    right = sum(found == review.label for found, review in zip(predicted, reviews, strict=True))
    assert report.accuracy.tuned == pytest.approx(right / len(reviews), abs=0.004)
    assert report.agreement >= 0.95
    assert report.samples == len(reviews)


def test_divergence_from_itself_is_none(smol):
    samples, _ = held_out(4)
    model = open_model(smol.base)
    (batch,) = encode(samples, open_tokenizer(smol.base), 512, 4096)
    with torch.no_grad():
        logits = predict(model, batch)
    assert divergence(logits, logits).kl.abs().max() == 0
