"""Models with expert stacks and with convolutions go through pack, install and remove; tiny, but of real classes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import pytest

import skillpack
from recipes.stacks import STACKED, STEPS, Stacked, train
from skillpack.checkpoint import open_checkpoint
from skillpack.kinds import by_kind


@dataclass(frozen=True)
class Pair:
    """A base and its fine-tune, as folders, and how to judge a third folder."""

    case: Stacked
    base: Any
    tuned: Any
    kind: type

    def load(self, folder: Any) -> Any:
        """The model of a folder; fails if any tensor is missing, unknown or of another shape."""
        model, found = self.kind.from_pretrained(folder, output_loading_info=True)
        assert not any(found.values()), found
        return model.eval()

    def loss(self, folder: Any) -> float:
        """On data that training has not seen."""
        import torch

        model = self.load(folder)
        with torch.no_grad():
            return sum(float(model(**batch).loss) for batch in self.case.batches(4, 1)) / 4


@pytest.fixture(scope="module", params=STACKED)
def pair(request, tmp_path_factory):
    """A model that has learned a little, and what it started from."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    case, folder = STACKED[request.param], tmp_path_factory.mktemp(request.param)
    base, tuned = train(case, folder)
    yield Pair(case, base, tuned, type(case.make()))
    logging.enable_progress_bar()
    shutil.rmtree(folder)


def digests(folder):
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name).digest() for name in checkpoint.tensors}


def test_training_taught_something(pair):
    assert pair.loss(pair.tuned) < 0.7 * pair.loss(pair.base)


def test_an_exact_skill_gives_the_fine_tune_back_bit_for_bit(pair, room, contents):
    skillpack.pack(pair.base, pair.tuned, "exact", exact=True, store=room / "store")
    model = shutil.copytree(pair.base, room / "model")
    skillpack.install("exact", model, store=room / "store")
    assert digests(model) == digests(pair.tuned)
    assert pair.loss(model) == pair.loss(pair.tuned)
    skillpack.remove("exact", model)
    assert contents(model) == contents(pair.base)


@pytest.mark.parametrize(("quality", "share"), [(0.98, 0.15), (0.99, 0.25)])
def test_a_small_skill_keeps_the_gain_and_comes_off_without_a_trace(pair, room, contents, quality, share):
    skillpack.pack(pair.base, pair.tuned, "small", quality=quality, store=room / "store")
    skill = skillpack.show("small", store=room / "store").skill
    assert skill.size < share * (pair.tuned / "model.safetensors").stat().st_size
    model = shutil.copytree(pair.base, room / "model")
    skillpack.install("small", model, store=room / "store")
    base, tuned, found = (pair.loss(folder) for folder in (pair.base, pair.tuned, model))
    assert (base - found) / (base - tuned) > 0.9
    skillpack.remove("small", model)
    assert contents(model) == contents(pair.base)


def test_stacks_are_written_by_the_codec_that_wins_and_the_table_shows_it(pair, room):
    """Where noise is large what experts and positions have in common is said once; fine packs are about entries too."""
    by_matrix = {"lowrank", "sparse", "exact", "direct", "lowrank+direct"}
    by_entries = {"direct", "lowrank+direct", "lowrank"}
    # Neighbouring positions of a kernel have something in common at any size.
    fine = by_entries | {"tucker"} if pair.case is STACKED["resnet"] else by_entries
    for quality, expected in ((0.9, {"tucker"}), (0.998, fine)):
        skillpack.pack(pair.base, pair.tuned, "small", quality=quality, store=room / "store")
        manifest = skillpack.show("small", store=room / "store").skill.manifest
        assert {entry.main.codec for entry in manifest.tensors if len(entry.shape) == 2} <= by_matrix
        if pair.case.stacks is None:
            # Experts are stored one by one.
            assert {len(entry.shape) for entry in manifest.tensors} <= {1, 2}
            assert "tucker" not in {entry.main.codec for entry in manifest.tensors}
            continue
        stacks = [
            entry for entry in manifest.tensors if entry.name.endswith(pair.case.stacks) and 1 not in entry.shape[-1:]
        ]
        assert stacks
        written = {entry.main.codec for entry in stacks}
        assert written <= expected
        assert (written == {"tucker"}) == (quality == 0.9)
        assert written != {"lowrank"}
        kinds = [kind for kind in by_kind(manifest.tensors) if written & set(kind.codecs)]
        assert kinds
        ranks = [kind.ranks for kind in kinds if "tucker" in kind.codecs]
        assert all(found is not None and found.low >= 1 for found in ranks)
        assert bool(ranks) == ("tucker" in written)


def test_statistics_of_batch_norm_survive(pair, room):
    import torch

    skillpack.pack(pair.base, pair.tuned, "coarse", quality=0.5, store=room / "store")
    skillpack.install("coarse", pair.base, output=room / "model", store=room / "store")
    found, expected = (pair.load(folder).state_dict() for folder in (room / "model", pair.tuned))
    buffers = [name for name in expected if "running_" in name or name.endswith("num_batches_tracked")]
    assert bool(buffers) == (pair.case is STACKED["resnet"])
    for name in buffers:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name], expected[name]), name
        if name.endswith("num_batches_tracked"):
            assert (found[name].dtype, int(found[name])) == (torch.int64, STEPS)
    assert all(torch.isfinite(values).all() for values in found.values())
