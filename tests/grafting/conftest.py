"""A tiny Llama with tied weights and four skills of it: two exact, two approximate."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
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
    """Base, fine-tunes, a store, and a function that installs skills on disk; not to be changed."""
    root = tmp_path_factory.mktemp("grafting")
    base, store = models.llama(root / "base"), root / "store"
    changed = {"math": "", "code": "mlp", "prose": "", "chat": "embed_tokens"}
    tuned = {
        name: models.moved(base, root / name, scale=0.1, seed=seed, names=changed[name])
        for seed, name in enumerate(NAMES, 1)
    }
    for name in NAMES:
        skillpack.pack(base, tuned[name], name, exact=name in {"math", "chat"}, store=store)

    @functools.cache
    def installed(*skills):
        output = root / "installed" / " ".join(skills)
        skillpack.install(list(skills), base, output=output, store=store)
        return output

    return SimpleNamespace(root=root, base=base, store=store, tuned=tuned, installed=installed)
