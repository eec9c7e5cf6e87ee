"""What models write themselves."""

from __future__ import annotations

import pytest
import torch

from skillpack.errors import UnsupportedCheckpointError
from skillpack.live.batches import encode
from skillpack.live.generation import complete, self_samples
from skillpack.live.models import open_model, open_tokenizer
from skillpack.live.predictions import longest, predict, task_of
from skillpack.texts import Sample
from tests.live import models


def ask(*words):
    return [Sample(messages=({"role": "user", "content": word},)) for word in words]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = models.llama(tmp_path_factory.mktemp("models") / "llama")
    return open_model(folder), open_tokenizer(folder)


def test_prompts_are_answered_greedily_one_by_one_and_together(llama):
    model, tokenizer = llama
    prompts = ask("a", "a longer question", "b")
    kept = Sample(text="left alone")
    together = complete(model, tokenizer, [*prompts, kept], 8)
    assert together[3] is kept
    assert together[:3] == [complete(model, tokenizer, [prompt], 8)[0] for prompt in prompts]
    for prompt, answered in zip(prompts, together, strict=False):
        assert answered.messages[:-1] == prompt.messages
        assert answered.messages[-1]["role"] == "assistant"
        (batch,) = encode([prompt], tokenizer, 500, 500)
        tokens = model.generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=8, do_sample=False)
        new = tokens[0, batch.input_ids.shape[1] :]
        assert answered.messages[-1]["content"] == tokenizer.decode(new, skip_special_tokens=True)
        assert answered.cut == (257 not in new)


def test_an_answer_ends_at_the_end_token(tmp_path):
    """A model that always says the same token."""
    folder = models.llama(tmp_path / "model", tie_word_embeddings=False)
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    for token, content, cut in ((257, "", False), (65, tokenizer.decode([65]) * 4, True)):
        with torch.no_grad():
            dict(model.named_parameters())["model.norm.weight"].zero_()
            model.lm_head = torch.nn.Linear(32, models.VOCABULARY)
            model.lm_head.bias.zero_()[token] = 1
        (found,) = complete(model, tokenizer, ask("a"), 4)
        assert (found.messages[-1]["content"], found.cut) == (content, cut)
    model.generation_config.eos_token_id = [65]
    (found,) = complete(model, tokenizer, ask("a"), 4)
    assert (found.messages[-1]["content"], found.cut) == ("", False)


def test_own_texts_are_drawn_by_a_seed(llama):
    model, tokenizer = llama
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = self_samples(model, tokenizer, 17, seed=1, max_new_tokens=3)
    assert torch.equal(torch.rand(1), expected)
    assert first == self_samples(model, tokenizer, 17, seed=1, max_new_tokens=3)
    assert first != self_samples(model, tokenizer, 17, seed=2, max_new_tokens=3)
    assert len(first) == 17
    assert len({sample.messages[-1]["content"] for sample in first}) > 10
    assert first[0].messages[0] == {"role": "user", "content": ""}
    untaught = self_samples(model, models.tokenizer(None), 2, seed=1, max_new_tokens=3)
    assert not untaught[0].messages
    assert untaught[0].text


def test_what_a_model_predicts(llama, tmp_path):
    model, tokenizer = llama
    assert task_of(model) == "next token"
    batches = encode([Sample(text="abcd"), Sample(text="ab")], tokenizer, 100, 100)
    logits = predict(model, batches[0])
    whole = model(input_ids=batches[0].input_ids, attention_mask=batches[0].attention_mask).logits
    torch.testing.assert_close(logits, whole[batches[0].scored])
    assert longest(model, tokenizer, 1000) == 128
    assert longest(model, tokenizer, 5) == 5

    classifier = open_model(models.bert(tmp_path / "classifier"))
    assert task_of(classifier) == "class"
    (batch,) = encode([Sample(text="abcd"), Sample(text="ab")], tokenizer, 100, 100, whole=True)
    assert predict(classifier, batch).shape == (2, 3)


@pytest.mark.parametrize(
    ("model_class", "settings", "problem"),
    [
        ("BertModel", {}, "neither next tokens nor classes"),
        ("BertForMaskedLM", {}, "neither next tokens nor classes"),
        ("BertForSequenceClassification", {"num_labels": 1}, "no distribution"),
        ("BertForSequenceClassification", {"problem_type": "multi_label_classification"}, "no distribution"),
    ],
)
def test_models_that_cannot_be_measured(tmp_path, model_class, settings, problem):
    model = open_model(models.bert(tmp_path / "model", model_class, **settings))
    with pytest.raises(UnsupportedCheckpointError, match=problem):
        task_of(model)
    with pytest.raises(UnsupportedCheckpointError, match="cannot write texts"):
        complete(model, models.tokenizer(), ask("a"), 4)
