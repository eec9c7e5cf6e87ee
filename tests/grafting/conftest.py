"""A tiny Llama with tied weights and four skills of it: two exact, two approximate."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.utils import logging

import skillpack
from tests.live import models

NAMES = ["math", "code", "prose", "chat"]


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """Base, fine-tunes and a store; not to be changed."""
    root = tmp_path_factory.mktemp("grafting")
    base, store = models.llama(root / "base"), root / "store"
    changed = {"math": "", "code": "mlp", "prose": "", "chat": "embed_tokens"}
    tuned = {
        name: models.moved(base, root / name, scale=0.1, seed=seed, names=changed[name])
        for seed, name in enumerate(NAMES, 1)
    }
    for name in NAMES:
        skillpack.pack(base, tuned[name], name, exact=name in {"math", "chat"}, store=store)
    return SimpleNamespace(root=root, base=base, store=store, tuned=tuned)


@pytest.fixture
def load(shelf):
    """Function: the base as a live model."""

    def load(dtype="auto", folder=shelf.base, **options):
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()

    return load


@pytest.fixture
def installed(shelf, tmp_path_factory):
    """Function: the folder of the base with skills installed."""

    def installed(*skills):
        output = tmp_path_factory.mktemp("installed") / "model"
        skillpack.install(list(skills), shelf.base, output=output, store=shelf.store)
        return output

    return installed


@pytest.fixture(scope="session")
def bits():
    """Function: name -> bytes, of all parameters and buffers of a model."""

    def bits(model):
        state = model.state_dict()
        return {name: value.detach().cpu().contiguous().flatten().view(torch.uint8).clone() for name, value in state.items()}

    return bits


@pytest.fixture(scope="session")
def same():
    """Function: whether two results of `bits` are equal."""

    def same(left, right):
        return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

    return same
