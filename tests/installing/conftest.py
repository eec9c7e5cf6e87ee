from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

from tests.installing import models


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """A base and skills of it, made once; not to be changed."""
    root = tmp_path_factory.mktemp("shelf")
    base = models.base_tensors()
    folder = models.write_model(root / "base", base)
    store = root / "store"
    config = {**models.CONFIG, "use_cache": False}
    vocabulary = {**models.TOKENIZER, "added_tokens": [{"id": 2, "content": "<x>"}]}
    tuned = {
        "math": models.moved(base, 1, "layers.0.up.weight", "layers.1.norm.weight"),
        "code": models.moved(base, 2, "embed.weight", "layers.0.up.weight"),
        "prose": models.moved(base, 3, *models.SHAPES),
        "chat": models.moved(base, 4, "layers.1.down.weight"),
    }
    skills = {
        "math": models.make_skill(store, folder, tuned["math"], "math"),
        "code": models.make_skill(store, folder, tuned["code"], "code", config=config),
        "prose": models.make_skill(store, folder, tuned["prose"], "prose", exact=False),
        "chat": models.make_skill(store, folder, tuned["chat"], "chat", tokenizer=vocabulary),
    }
    return SimpleNamespace(root=root, base=folder, store=store, tensors=base, tuned=tuned, skills=skills)


@pytest.fixture
def model(shelf, tmp_path):
    """A copy of the base."""
    return shutil.copytree(shelf.base, tmp_path / "model")
