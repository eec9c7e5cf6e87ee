"""A model that is loaded with skills on it is the one that is installed on disk."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

import skillpack
from skillpack.errors import CheckpointError, NotFoundError, UnsupportedModelError
from tests.grafting.tools import bits, load, same


def test_loaded_is_installed(shelf):
    model = skillpack.from_pretrained(shelf.base, skills=["math@1", "code:0.5"], store=shelf.store)
    assert type(model) is transformers.LlamaForCausalLM
    assert not model.training
    assert same(bits(model), bits(load(shelf.installed("math", "code=0.5"))))
    host = skillpack.host(model)
    assert [each.label for each in host.installed] == ["code@1", "math@1"]
    host.swap("prose")
    assert same(bits(model), bits(load(shelf.installed("prose"))))
    host.verify()
    host.ungraft()
    assert same(bits(model), bits(load(shelf.base)))


def test_options_are_passed_on(shelf):
    model = skillpack.from_pretrained(
        shelf.base, "math", auto_class="AutoModel", store=shelf.store, dtype=torch.float32, attn_implementation="eager"
    )
    assert type(model) is transformers.LlamaModel
    assert model.norm.weight.dtype == torch.float32
    assert model.config._attn_implementation == "eager"
    other = skillpack.from_pretrained(shelf.base, auto_class=transformers.AutoModelForCausalLM)
    assert same(bits(other), bits(load(shelf.base)))
    assert skillpack.host(other).installed == ()


def test_what_cannot_be_loaded(shelf, tmp_path):
    with pytest.raises(NotFoundError, match="nothing"):
        skillpack.from_pretrained(shelf.base, "nothing", store=shelf.store)
    with pytest.raises(CheckpointError, match="no such file"):
        skillpack.from_pretrained(tmp_path / "none", "math", store=shelf.store)
    with pytest.raises(UnsupportedModelError, match="no model class 'MadeUp'"):
        skillpack.from_pretrained(shelf.base, auto_class="MadeUp")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made_up"}))
    with pytest.raises(CheckpointError, match="what kind of model"):
        skillpack.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="does not name the model's class"):
        skillpack.from_pretrained(tmp_path)
