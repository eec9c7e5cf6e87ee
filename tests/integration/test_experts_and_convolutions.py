"""Models with expert stacks and with convolutions go through pack, install and remove; tiny, but of real classes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.kinds import by_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = 40


def chains(steps: int, seed: int) -> Iterator[dict[str, Any]]:
    """Sequences in which each number follows from the one before."""
    import torch

    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        row = [torch.randint(0, 61, (16,), generator=random)]
        while len(row) < 16:
            row.append((5 * row[-1] + 3) % 61)
        numbers = torch.stack(row, dim=1)
        yield {"input_ids": numbers, "labels": numbers}


def pictures(steps: int, seed: int) -> Iterator[dict[str, Any]]:
    """One of four patterns each, under noise."""
    import torch

    patterns = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        labels = torch.randint(0, 4, (32,), generator=random)
        yield {
            "pixel_values": 0.5 * patterns[labels] + torch.randn(32, 3, 16, 16, generator=random),
            "labels": labels,
        }


def mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def gpt_oss() -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return GptOssForCausalLM(GptOssConfig(**sizes, **heads))


def resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", num_labels=4))


@dataclass(frozen=True)
class Case:
    """A model, what it learns, how it is saved, and what its largest tensors are called.

    Attributes:
        stacks: end of the names of tensors with three or four axes; None where experts are stored one by one.
    """

    make: Callable[[], Any]
    batches: Callable[[int, int], Iterator[dict[str, Any]]]
    saving: dict[str, Any]
    stacks: tuple[str, ...] | None


CASES = {
    "mixtral-fused": Case(mixtral, chains, {"save_original_format": False}, ("gate_up_proj", "down_proj")),
    "mixtral": Case(mixtral, chains, {}, None),
    "gpt-oss": Case(gpt_oss, chains, {}, ("gate_up_proj", "down_proj")),
    "resnet": Case(resnet, pictures, {}, ("convolution.weight",)),
}


@dataclass(frozen=True)
class Pair:
    """A base and its fine-tune, as folders, and how to judge a third folder."""

    case: Case
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


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """Start a model at random, train it a little, and keep both."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = case.make()
    model.save_pretrained(folder / "base", **case.saving)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in case.batches(STEPS, 0):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "tuned", **case.saving)
    yield Pair(case, folder / "base", folder / "tuned", type(model))
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
    skillpack.pack(pair.base, pair.tuned, "small", quality=0.97, store=room / "store")
    manifest = skillpack.show("small", store=room / "store").skill.manifest
    if pair.case.stacks is None:
        # Experts are stored one by one.
        assert {len(entry.shape) for entry in manifest.tensors} <= {1, 2}
        assert "tucker" not in {entry.main.codec for entry in manifest.tensors}
        return
    stacks = [
        entry for entry in manifest.tensors if entry.name.endswith(pair.case.stacks) and 1 not in entry.shape[-1:]
    ]
    assert stacks
    written = {entry.main.codec for entry in stacks}
    assert "tucker" in written <= {"tucker", "lowrank"}
    by_matrix = {"lowrank", "sparse", "exact", "direct", "lowrank+direct"}
    assert {entry.main.codec for entry in manifest.tensors if len(entry.shape) == 2} <= by_matrix
    kinds = [kind for kind in by_kind(manifest.tensors) if "tucker" in kind.codecs]
    assert kinds
    assert all(kind.ranks is not None and kind.ranks.low >= 1 for kind in kinds)


def test_statistics_of_batch_norm_survive(pair, room):
    import torch

    skillpack.pack(pair.base, pair.tuned, "coarse", quality=0.5, store=room / "store")
    skillpack.install("coarse", pair.base, output=room / "model", store=room / "store")
    found, expected = (pair.load(folder).state_dict() for folder in (room / "model", pair.tuned))
    buffers = [name for name in expected if "running_" in name or name.endswith("num_batches_tracked")]
    assert bool(buffers) == (pair.case.make is resnet)
    for name in buffers:
        assert found[name].dtype == expected[name].dtype
        assert torch.equal(found[name], expected[name]), name
        if name.endswith("num_batches_tracked"):
            assert (found[name].dtype, int(found[name])) == (torch.int64, STEPS)
    assert all(torch.isfinite(values).all() for values in found.values())
