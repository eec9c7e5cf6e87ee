from __future__ import annotations

import tempfile
from types import SimpleNamespace

import pytest

import skillpack
from skillpack.live.models import open_model, open_tokenizer
from skillpack.texts import Sample
from tests.live import models

TEXTS = ["All models are wrong.", "Some are useful: 12 of 31.", "abc", "Zwölf Boxkämpfer jagen Viktor."]


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Everything temporary goes here."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def texts():
    return [Sample(text=text) for text in TEXTS]


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A tiny Llama, a fine-tune of it that learned the texts, and skills of that; not to be changed."""
    root = tmp_path_factory.mktemp("llama")
    base = models.llama(root / "base", torch_dtype="bfloat16")
    tuned = models.trained(base, root / "tuned", TEXTS)
    store = root / "store"
    skillpack.pack(base, tuned, "exact", exact=True, store=store)
    skillpack.pack(base, tuned, "rough", quality=0.3, store=store)
    skillpack.pack(base, tuned, "fine", quality=0.995, store=store)
    return SimpleNamespace(base=base, tuned=tuned, store=store, root=root)


@pytest.fixture(scope="session")
def opened(llama):
    return open_model(llama.tuned), open_tokenizer(llama.tuned)
