"""Scores against what a model really writes and predicts."""

from __future__ import annotations

import math

import pytest
import torch

from skillpack.errors import DataError, UnsupportedCheckpointError
from skillpack.learning.scores import measure_samples, score
from skillpack.live.generation import complete
from skillpack.live.models import open_model, open_tokenizer
from skillpack.texts import Sample
from tests.learning.conftest import chat, task
from tests.live import models


@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    """A model that knows some of the answers."""
    from skillpack.learning.training import Training, fine_tune

    folder = tmp_path_factory.mktemp("learned") / "model"
    fine_tune(base, task("colours").training[:2], folder, Training(steps=40, batch=2, learning_rate=1e-2))
    return open_model(folder), open_tokenizer(folder)


def test_exact_is_what_the_model_writes(learned):
    model, tokenizer = learned
    samples = [*task("colours").measured, *task("digits").measured, chat("colours: sky?", "blu")]
    prompts = [Sample(messages=sample.messages[:-1]) for sample in samples]
    written = complete(model, tokenizer, prompts, 12)
    expected = [
        float(found.messages == sample.messages and not found.cut)
        for found, sample in zip(written, samples, strict=True)
    ]
    found = measure_samples(model, tokenizer, samples, "exact")
    assert [outcome.total for outcome in found] == expected
    assert 0 < sum(expected) < len(expected)


def test_number_is_the_last_one_of_the_answer(learned):
    model, tokenizer = learned
    text = complete(model, tokenizer, [Sample(messages=chat("colours: sky?", "").messages[:1])], 20)[0]
    assert text.messages[-1]["content"] == "blue"
    found = measure_samples(model, tokenizer, [chat("colours: sky?", "7")], "number")
    assert score(found, "number") == 0


def test_likelihood_is_of_every_answer_token(learned):
    model, tokenizer = learned
    sample = chat("colours: sky?", "blue")
    turns = list(sample.messages)
    before = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(before + "blue<|im_end|>", return_tensors="pt").input_ids
    start = len(tokenizer(before).input_ids)
    with torch.no_grad():
        logs = model(ids).logits[0].log_softmax(-1)
    expected = sum(float(logs[place - 1, ids[0, place]]) for place in range(start, ids.shape[1])) / (
        ids.shape[1] - start
    )
    found = score(measure_samples(model, tokenizer, [sample], "likelihood"), "likelihood")
    assert found == pytest.approx(math.exp(expected), rel=1e-4)


def test_label_is_the_most_likely_class(tmp_path):
    folder = models.bert(tmp_path / "classes", seed=3)
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    texts = ["good", "bad", "neither of them", "a"]
    with torch.no_grad():
        wanted = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in texts]
    right = [Sample(text=text, label=label) for text, label in zip(texts, wanted, strict=True)]
    wrong = [Sample(text=text, label=(label + 1) % 3) for text, label in zip(texts, wanted, strict=True)]
    found = measure_samples(model, tokenizer, [*right, *wrong], "label")
    assert [outcome.total for outcome in found] == [1.0] * 4 + [0.0] * 4
    with pytest.raises(UnsupportedCheckpointError, match="has no score exact"):
        measure_samples(model, tokenizer, [chat("a", "b")], "exact")


def test_nothing_to_measure(learned):
    with pytest.raises(DataError, match="held-out sample 1 has nothing to measure within 128 tokens"):
        measure_samples(*learned, [chat("a" * 200, "b")], "exact")
