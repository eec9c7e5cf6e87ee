from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import skillpack
from skillpack.checkpoint import open_checkpoint
from tests.installing import models

MATRICES = "embed.weight", "layers.0.up.weight", "layers.1.down.weight"
NORMS = "layers.0.norm.weight", "layers.1.norm.weight"


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A base, fine-tunes of it by name, and skills of them, bit for bit; not to be changed."""
    folder = tmp_path_factory.mktemp("comparing")
    base, store = folder / "base", folder / "store"
    tensors = models.base_tensors()
    models.write_model(base, tensors)
    tuned = {
        "math": models.moved(tensors, 1, *MATRICES, *NORMS),
        "code": models.moved(tensors, 2, *MATRICES),
        "head": models.moved(tensors, 3, "layers.1.down.weight"),
        "norms": models.moved(tensors, 4, *NORMS),
    }
    # Nearly the same fine-tune once more.
    tuned["again"] = models.moved(tuned["math"], 5, "layers.0.norm.weight")
    for name, own in tuned.items():
        models.make_skill(store, base, own, name)
    other = models.write_model(folder / "other", models.base_tensors(7))
    elsewhere = models.moved(models.base_tensors(7), 8, *MATRICES)
    models.make_skill(store, other, elsewhere, "elsewhere")
    return SimpleNamespace(base=base, other=other, store=store, tensors=tensors, tuned=tuned)


@pytest.fixture(scope="session")
def deltas(library):
    """Function: name of a skill -> tensor -> what its fine-tune adds to the base, fp64."""

    def deltas(name):
        tuned = library.tuned[name]
        return {
            key: tensor.float32().astype(np.float64) - library.tensors[key].float32()
            for key, tensor in tuned.items()
            if tensor.is_float and tensor.digest() != library.tensors[key].digest()
        }

    return deltas


@pytest.fixture(scope="session")
def lossy(library, tmp_path_factory):
    """A store with two skills that are approximated, with factors."""
    store = tmp_path_factory.mktemp("lossy") / "store"
    for name in ("math", "code"):
        tuned = models.write_model(store.parent / name, library.tuned[name], sharded=False)
        skillpack.pack(library.base, tuned, name, quality=0.95, store=store)
        assert open_checkpoint(tuned).tensors
    return store
