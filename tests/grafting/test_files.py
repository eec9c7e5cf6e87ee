"""Files that skills change: the generation config is applied, of the others a warning is given."""

from __future__ import annotations

import json
import shutil

import pytest

import skillpack
from skillpack.errors import NotAppliedWarning
from tests.grafting.tools import bits, load, same
from tests.live import models


@pytest.fixture
def store(shelf, tmp_path):
    """Skills that change the generation config, and one that changes the tokenizer too."""
    for name, seed, files in [
        ("hot", 1, {"generation_config.json": {"temperature": 1.5}}),
        ("wordy", 2, {"generation_config.json": {"max_length": 99}}),
        ("chatty", 3, {"tokenizer_config.json": {"model_max_length": 77}}),
    ]:
        tuned = shutil.copytree(shelf.base, tmp_path / name)
        moved = models.moved(shelf.base, tmp_path / f"moved-{name}", seed=seed, names="norm")
        shutil.copy(moved / "model.safetensors", tuned)
        for file, changes in files.items():
            content = json.loads((tuned / file).read_text())
            (tuned / file).write_text(json.dumps({**content, **changes}))
        skillpack.pack(shelf.base, tuned, name, exact=True, store=tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("with_folder", [False, True])
def test_the_generation_config_comes_and_goes(shelf, store, with_folder):
    model = load(shelf.base)
    own = model.generation_config
    host = skillpack.host(model, store=store, base=shelf.base if with_folder else "copy")
    host.graft("hot")
    assert (model.generation_config.temperature, model.generation_config.max_length) == (1.5, own.max_length)
    host.graft("wordy")
    assert (model.generation_config.temperature, model.generation_config.max_length) == (1.5, 99)
    assert model.generation_config.eos_token_id == own.eos_token_id
    host.ungraft("hot")
    assert (model.generation_config.temperature, model.generation_config.max_length) == (own.temperature, 99)
    host.ungraft()
    assert model.generation_config is own


def test_files_that_a_live_model_does_not_take_are_named_once(shelf, store):
    model = load(shelf.base)
    host = skillpack.host(model, store=store)
    with pytest.warns(NotAppliedWarning, match=r"chatty also changes: tokenizer_config\.json\. Open") as warned:
        host.graft("chatty", "hot")
    assert warned[0].filename == __file__
    host.ungraft()
    host.graft("chatty")


def test_a_warning_that_is_an_error_leaves_the_model_alone(shelf, store):
    model = load(shelf.base)
    before, own = bits(model), model.generation_config
    host = skillpack.host(model, store=store)
    with pytest.raises(NotAppliedWarning):
        host.graft("chatty", "hot")
    assert same(bits(model), before)
    assert host.installed == ()
    assert model.generation_config is own


def test_another_weight_changes_settings_and_not_the_model_twice(shelf, store):
    model = load(shelf.base)
    host = skillpack.host(model, store=store)
    host.graft("hot")
    version = model.model.norm.weight._version
    host.graft("hot")
    assert model.model.norm.weight._version == version
    assert model.generation_config.temperature == 1.5
