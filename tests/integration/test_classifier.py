"""The main job on an encoder whose fine-tune has a new head and tensors of other names."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest

import skillpack
from benchmarks.classifier import SIZE
from benchmarks.folders import WEIGHTS, skill_bytes
from recipes.finetune import DRUG_REVIEWS, fine_tune
from recipes.measure import predicted_labels
from recipes.models import minilm
from skillpack.checkpoint import open_checkpoint

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("classifier")]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """MiniLM, a copy of it with the skill of its fine-tune installed, and the store."""
    root = tmp_path_factory.mktemp("reviews")
    tuned, store, model = fine_tune(DRUG_REVIEWS), root / "store", shutil.copytree(minilm(), root / "model")
    packed = skillpack.pack(minilm(), tuned, "reviews", size=SIZE, store=store)
    skillpack.install("reviews", model, store=store)
    yield SimpleNamespace(base=minilm(), tuned=tuned, model=model, size=skill_bytes(store, packed.digest))
    shutil.rmtree(root)


def test_a_twentieth_of_the_bytes_predicts_the_same(reviews):
    assert reviews.size <= 0.05 * (reviews.tuned / WEIGHTS).stat().st_size
    expected, found = predicted_labels(reviews.tuned), predicted_labels(reviews.model)
    assert len(expected) == 343
    assert len(set(expected)) == 2, "a fine-tune that always says the same proves nothing"
    assert sum(one == other for one, other in zip(expected, found, strict=True)) >= 0.99 * len(expected)


def test_the_new_head_is_there_bit_for_bit(reviews):
    tuned, installed = open_checkpoint(reviews.tuned), open_checkpoint(reviews.model)
    assert installed.tensors.keys() == tuned.tensors.keys()
    for name in ("classifier.weight", "classifier.bias"):
        assert installed.read(name).digest() == tuned.read(name).digest()


def test_a_pipeline_loads_it(reviews):
    from transformers import pipeline

    (found,) = pipeline("text-classification", str(reviews.model))("It cured me within a week, I am so happy.")
    assert found["label"] in {"LABEL_0", "LABEL_1"}


def test_it_comes_off_without_a_trace(reviews, room, contents):
    model = shutil.copytree(reviews.model, room / "model")
    skillpack.remove(None, model)
    assert contents(model) == contents(reviews.base)
