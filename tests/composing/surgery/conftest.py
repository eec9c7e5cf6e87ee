from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

import skillpack
from skillpack.texts import Sample
from tests.live import models

ENGLISH = [
    *("All models are wrong.", "Some are useful: 12 of 31.", "No man is an island.", "Time and tide wait for no man."),
    *("A stitch in time saves nine.", "The early bird gets the worm.", "Haste makes waste.", "Still waters run deep."),
    *("Many hands make light work.", "Actions speak louder.", "Better late than never.", "The pen is mightier."),
]
GERMAN = ["Zwölf Boxkämpfer jagen Viktor.", "Aller Anfang ist schwer.", "Ende gut, alles gut.", "Übung macht Meister."]
QUICK = {"steps": 300, "batch": 4, "max_tokens": 64}


def samples(texts):
    return [Sample(text=text) for text in texts]


@pytest.fixture(scope="session")
def _worlds(tmp_path_factory):
    """Tiny models with skills of two fine-tunes, and the sum of both; not to be changed."""
    root = tmp_path_factory.mktemp("surgery")
    store = root / "store"
    base = models.llama(root / "base", torch_dtype="bfloat16")
    for name, texts in (("english", ENGLISH), ("german", GERMAN)):
        skillpack.pack(base, models.trained(base, root / name, texts, steps=25), name, quality=0.99, store=store)
    skillpack.compose(["english=0.5", "german=0.8"], "both", base=base, store=store)
    other = models.llama(root / "other", seed=7)
    skillpack.pack(other, models.moved(other, root / "other-tuned"), "stranger", store=store)
    classifier = models.bert(root / "classifier")
    for seed, name in enumerate(("moods", "topics"), start=1):
        tuned = models.moved(classifier, root / name, scale=0.3, seed=seed, names="encoder")
        skillpack.pack(classifier, tuned, name, quality=0.99, store=store)
    skillpack.compose(["moods=0.5", "topics=0.8"], "labels", base=classifier, store=store)
    return SimpleNamespace(root=root, store=store, base=base, other=other, classifier=classifier)


@pytest.fixture
def world(_worlds, tmp_path):
    """The same with a store of its own."""
    return SimpleNamespace(**{**vars(_worlds), "store": shutil.copytree(_worlds.store, tmp_path / "store")})
