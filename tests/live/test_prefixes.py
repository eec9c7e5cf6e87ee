"""What texts begin with is read once, and nothing else changes."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import transformers

from skillpack.live.batches import encode
from skillpack.live.models import open_model, open_tokenizer
from skillpack.live.precision import weight_gradients
from skillpack.live.predictions import predict
from skillpack.live.prefixes import common_length, read_prefix
from skillpack.texts import Sample
from tests.live import models

SYSTEM = {"role": "system", "content": "Be brief."}


def chat(question, answer):
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Sample(messages=(SYSTEM, *turns))


CHATS = [chat("two", "dos"), chat("twenty-one", "veintiuno"), chat("a", "b"), chat("seven", "siete"), chat("t", "x")]
BEGINS = len("S") + len("system\nBe brief.") + len("E\nS") + len("user\n")


def gpt2(folder):
    torch.manual_seed(0)
    sizes = {"vocab_size": models.VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
    config = transformers.GPT2Config(**sizes, bos_token_id=256, eos_token_id=257, initializer_range=0.3)
    return models.save(folder, transformers.GPT2LMHeadModel(config))


def opt(folder):
    torch.manual_seed(0)
    sizes = {name: models.SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    config = transformers.OPTConfig(
        **sizes, ffn_dim=48, word_embed_proj_dim=32, num_attention_heads=4, max_position_embeddings=128, init_std=0.3
    )
    return models.save(folder, transformers.OPTForCausalLM(config))


def mistral(folder):
    torch.manual_seed(0)
    return models.save(
        folder, transformers.MistralForCausalLM(transformers.MistralConfig(**models.SIZES, sliding_window=8))
    )


def batches(folder, samples=CHATS):
    return encode(samples, open_tokenizer(folder), 128, 1000, most=2)


@pytest.mark.parametrize("make", [models.llama, models.mixtral, gpt2, opt])
def test_predictions_are_the_same(make, tmp_path):
    model, found = open_model(make(tmp_path)), batches(tmp_path)
    assert len(found) == 3
    with torch.no_grad():
        prefix = read_prefix(model, found)
        assert prefix.length == common_length(found) == BEGINS
        for batch in found:
            torch.testing.assert_close(predict(model, batch, prefix), predict(model, batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [models.llama, models.mixtral, gpt2])
def test_gradients_are_the_same(make, tmp_path):
    model, found = open_model(make(tmp_path)), batches(tmp_path)

    def gradients(opened):
        sums = {}

        def add(name, gradient):
            sums[name] = sums.get(name, 0.0) + gradient

        with weight_gradients(model, add), torch.enable_grad():
            prefix = read_prefix(model, found) if opened else None
            for batch in found:
                logits = predict(model, batch, prefix)
                torch.autograd.backward(logits, logits.detach().tanh())
            if prefix is not None:
                prefix.backward()
        return sums

    expected = gradients(opened=False)
    assert len(expected) == len(dict(model.named_parameters()))
    for name, gradient in gradients(opened=True).items():
        torch.testing.assert_close(gradient, expected.pop(name), rtol=1e-3, atol=1e-3)
    assert not expected


@pytest.mark.parametrize("make", [models.llama, gpt2])
def test_nothing_stays_of_a_pass(make, tmp_path):
    """The last layer's keys and values lead nowhere, so that no backward pass frees what was computed after them."""

    class Sink:
        def __call__(self, _name, _gradient):
            pass

    model, found, sink = open_model(make(tmp_path)), batches(tmp_path), Sink()
    seen = weakref.ref(sink)
    gc.disable()
    try:
        with weight_gradients(model, sink), torch.enable_grad():
            prefix = read_prefix(model, found)
            logits = predict(model, found[0], prefix)
            torch.autograd.backward(logits, logits.detach().tanh())
            prefix.backward()
        del sink, prefix, logits
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [mistral, lambda folder: models.bert(folder, "BertLMHeadModel")])
def test_models_that_keep_other_things_read_every_text_whole(make, tmp_path):
    model, found = open_model(make(tmp_path)), batches(tmp_path)
    assert common_length(found) == BEGINS
    with torch.no_grad():
        assert read_prefix(model, found) is None


def test_texts_that_begin_differently_have_no_opening(tmp_path):
    model = open_model(models.llama(tmp_path))
    found = batches(tmp_path, [*CHATS, Sample(messages=CHATS[0].messages[1:])])
    assert common_length(found) == len("S")
    # Of plain text the prediction after the first token counts already.
    plain = batches(tmp_path, [Sample(text="one two"), Sample(text="one three")])
    assert common_length(plain) == 0
    assert read_prefix(model, plain) is None
    assert read_prefix(model, []) is None


def test_each_text_has_something_left_to_read(tmp_path):
    models.llama(tmp_path)
    waiting = batches(tmp_path, [Sample(messages=(SYSTEM,)), *CHATS[:1]])
    length = common_length(waiting)
    assert all(int(batch.attention_mask.sum(1).min()) > length > 0 for batch in waiting)
