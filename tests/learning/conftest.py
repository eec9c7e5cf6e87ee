from __future__ import annotations

import pytest

from skillpack.learning import Task, Training
from skillpack.texts import Sample
from tests.live import models

ANSWERS = {
    "colours": {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"},
    "sounds": {"cat": "meow", "dog": "woof", "cow": "moo", "owl": "hoot"},
    "digits": {"one": "1", "two": "2", "six": "6", "ten": "10"},
}
TRAINING = Training(steps=45, batch=4, learning_rate=1e-2)


def chat(prompt, answer):
    return Sample(messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))


def task(name, **settings):
    """Answers to learn by heart: what is measured is what was learned."""
    samples = [chat(f"{name}: {word}?", answer) for word, answer in ANSWERS[name].items()]
    return Task(name, samples, samples, **{"score": "exact", **settings})


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny Llama; not to be changed."""
    return models.llama(tmp_path_factory.mktemp("base") / "base", initializer_range=0.1)
