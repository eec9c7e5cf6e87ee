"""Routing by the features of a real model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.unrelated import unrelated_texts
from recipes.models import smollm2
from recipes.tasks import TASKS
from skillpack.routing.applying import HostSkills
from skillpack.routing.examples import Examples
from skillpack.routing.features import Base
from skillpack.routing.methods.linear import Linear
from skillpack.routing.methods.prototype import Prototype

pytestmark = pytest.mark.real_model
NAMES = ["spanish-numbers", "word-problems", "city-facts"]


def test_held_out_prompts_find_their_task_and_others_none():
    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()
    base = Base(model, AutoTokenizer.from_pretrained(smollm2()), HostSkills(model, None, "main"))
    asked = [each.prompt for name in NAMES for each in TASKS[name].held_out()[:8]]
    others = [text for kind in ("everyday", "near", "languages") for text in unrelated_texts(6)[kind]]
    held_out = base.features([base.read(text) for text in (*asked, *others)])
    assert base.background_directions.shape == (len(base.background), 2 * model.config.hidden_size)
    shown = {name: [base.read(each.prompt) for each in TASKS[name].calibration()[:16]] for name in NAMES}
    examples = {name: Examples(base.features(prompts), None) for name, prompts in shown.items()}
    base.features = lambda _: held_out
    for method in (Prototype(base), Linear(base)):
        least = [method.add(SimpleNamespace(name=name, digest=name), examples[name]) for name in NAMES]
        scores = method.scores([[1]] * len(held_out), NAMES)
        fits = scores >= torch.tensor(least)
        chosen = torch.where(fits.any(1), scores.masked_fill(~fits, -torch.inf).argmax(1), -1)
        expected = torch.arange(len(NAMES)).repeat_interleave(8)
        assert (chosen[: len(asked)] == expected).float().mean() >= 0.95
        assert (chosen[len(asked) :] == -1).float().mean() >= 0.9
