"""Features are those of the layer, of the prompt's own tokens, whatever it is batched with."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from skillpack.errors import DataError, UnsupportedModelError
from skillpack.routing.applying import HostSkills
from skillpack.routing.features import Base
from skillpack.texts import Sample
from tests.live import models
from tests.routing.conftest import CODE, MATH


def opened(model, tokenizer, **options):
    return Base(model, tokenizer, HostSkills(model, None, "main"), **options)


def by_hand(model, tokens, layer, start):
    """Last token and mean, each scaled, from transformers' own hidden states."""
    with torch.inference_mode():
        hidden = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states[layer][0]
    halves = hidden[-1], hidden[start:].mean(0)
    return torch.cat([half / half.square().mean().sqrt() for half in halves])


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_features_are_what_the_layer_gives(model, tokenizer, layer):
    base = opened(model, tokenizer, layer=layer)
    prompts = [base.read(text) for text in (*MATH[:5], *CODE[:5], "x")]
    found = base.features(prompts)
    for row, tokens in zip(found, prompts, strict=True):
        torch.testing.assert_close(row, by_hand(model, tokens, layer, base.own(tokens)), rtol=1e-4, atol=1e-4)


def test_the_layer_is_at_four_fifths_and_the_rest_is_not_computed(model, tokenizer):
    base = opened(model, tokenizer)
    assert base.layer == 3
    model.model.layers[3].forward = lambda *_, **__: pytest.fail("the last layer was run")
    base.features([base.read("Hello")])
    with pytest.raises(UnsupportedModelError, match="has 4"):
        opened(model, tokenizer, layer=5)


def test_a_prompt_begins_after_what_all_prompts_begin_with(model, tokenizer):
    base = opened(model, tokenizer)
    tokens = base.read("ab")
    text = "<|im_start|>user\n"
    assert base.own(tokens) == len(tokenizer(text).input_ids)
    assert tokenizer.decode(tokens[base.own(tokens) :]).startswith("ab<|im_end|>")
    # What is no chat: the first token is left out, unless there is no other.
    assert base.own([5, 6, 7]) == 1
    assert base.own([5]) == 0
    assert torch.isfinite(base.features([[5], [5, 6]])).all()


def test_an_answer_is_not_read(model, tokenizer):
    base = opened(model, tokenizer)
    asked = {"role": "user", "content": "ab"}
    chat = Sample(messages=(asked, {"role": "assistant", "content": "secret"}))
    assert base.read(chat) == base.read(Sample(messages=(asked,))) == base.read("ab")


def test_long_prompts_are_cut_in_the_middle_and_empty_ones_refused(model, tokenizer):
    base = opened(model, tokenizer)
    tokens = base.read("a" * 100 + "b" * 300)
    assert len(tokens) == 128  # the tiny model's context
    assert tokens[:10] == base.read("a" * 100)[:10]
    with pytest.raises(DataError, match="empty"):
        base.read([])


def test_encoders_have_features_too(tmp_path):
    folder = models.bert(tmp_path / "bert", "BertModel")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    base = opened(model, tokenizer, layer=1)
    prompts = [base.read(text) for text in ("Hello there", "x" * 300)]
    for row, tokens in zip(base.features(prompts), prompts, strict=True):
        torch.testing.assert_close(row, by_hand(model, tokens, 1, 1), rtol=1e-4, atol=1e-4)


def test_models_without_layers_are_refused(tokenizer):
    bare = torch.nn.Linear(2, 2)
    bare.config = object()
    with pytest.raises(UnsupportedModelError, match="no row of layers"):
        opened(bare, tokenizer)


def test_a_base_remembers_the_background(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    folder, computed = tmp_path / "home" / "backgrounds", []

    def background(model):
        base = opened(model, tokenizer)
        whole = base.features
        base.features = lambda texts: computed.append(len(texts)) or whole(texts)
        return base.background_features

    def load():
        return AutoModelForCausalLM.from_pretrained(first)

    first = models.llama(tmp_path / "first")
    found = background(load())
    assert computed == [len(found)]
    assert torch.equal(background(load()), found)
    assert len(computed) == 1

    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(background(load()), found)
    assert len(computed) == 2

    other = load()
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    assert not torch.equal(background(other), found)
    assert (len(computed), len(list(folder.iterdir()))) == (3, 2)
