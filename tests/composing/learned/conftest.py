from __future__ import annotations

from types import SimpleNamespace

import pytest

import skillpack
from skillpack.grafting.addresses import Shelf
from skillpack.live.models import open_tokenizer
from skillpack.texts import Sample
from tests.live import models

ENGLISH = ["All models are wrong.", "Some are useful: 12 of 31.", "abc", "No man is an island."]
GERMAN = ["Zwölf Boxkämpfer jagen Viktor.", "Aller Anfang ist schwer.", "Ende gut, alles gut.", "Übung macht Meister."]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny Llama and skills of two fine-tunes of it, approximated and bit for bit; not to be changed."""
    root = tmp_path_factory.mktemp("two-tasks")
    base = models.llama(root / "base", torch_dtype="bfloat16")
    store = root / "store"
    for name, texts in (("english", ENGLISH), ("german", GERMAN)):
        tuned = models.trained(base, root / name, texts)
        skillpack.pack(base, tuned, name, quality=0.99, store=store)
        skillpack.pack(base, tuned, f"{name}-exact", exact=True, store=store)
    tasks = [[Sample(text=text) for text in texts] for texts in (ENGLISH, GERMAN)]
    return SimpleNamespace(base=base, store=store, root=root, tasks=tasks, tokenizer=open_tokenizer(base))


@pytest.fixture(scope="session")
def opened(tiny):
    """Opens skills by their addresses."""
    shelf = Shelf(tiny.store, "main")
    return lambda *addresses: [active.skill for active in shelf.find(addresses)]
