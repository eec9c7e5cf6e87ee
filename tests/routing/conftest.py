"""A tiny Llama, and a store with skills of it that have examples: math of numbers, code of code, and one without."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

import skillpack
from tests.live import models

MATH = [f"What is {first} plus {first * 7 % 31}?" for first in range(3, 27)]
CODE = [f"def f_{name}(x):\n    return x.{name}()" for name in "abcdefghijklmnopqrstuvwx"]
MIXED = ["Hello!", "The sea is calm tonight.", "Pourquoi le ciel est-il bleu ?", "Good morning, how do you do?"]


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("routing")
    base, store = models.llama(folder / "base", num_hidden_layers=4), folder / "store"
    for seed, (name, exact) in enumerate((("math", False), ("code", True), ("plain", False)), start=1):
        tuned = models.moved(base, folder / name, scale=0.2, seed=seed, names="proj")
        skillpack.pack(base, tuned, name, exact=exact, store=store)
    for name, prompts in (("math", MATH), ("code", CODE)):
        skillpack.add_examples(name, prompts[:16], base, store=store)
    return SimpleNamespace(folder=folder, base=base, store=store)


@pytest.fixture(scope="session")
def tokenizer(world):
    return AutoTokenizer.from_pretrained(world.base)


@pytest.fixture
def model(world):
    return AutoModelForCausalLM.from_pretrained(world.base, dtype="float32").eval()
