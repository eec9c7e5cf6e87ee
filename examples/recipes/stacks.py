"""Tiny models of real classes with tensors of three and four axes, and what they learn within seconds.

Mixtures of experts learn in sequences which number follows from the one before, a ResNet which of four patterns lies
under noise. They are for packing: expert stacks and kernels of convolutions are what they are about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

STEPS = 40
"""Of the optimiser."""

_Batches = Callable[[int, int], Iterator[dict[str, Any]]]
"""Number of batches and seed to that many batches, as keyword arguments of a model."""


@dataclass(frozen=True)
class Stacked:
    """A kind of model.

    Attributes:
        make: starts a model at random.
        batches: what it learns.
        saving: arguments of `save_pretrained`.
        stacks: ends of the names of its tensors with three or four axes; None where experts are stored one by one.
    """

    make: Callable[[], Any]
    batches: _Batches
    saving: dict[str, Any]
    stacks: tuple[str, ...] | None


def train(kind: Stacked, folder: Path) -> tuple[Path, Path]:
    """Start a model at random, train it a little, and save both as ``base`` and ``tuned``; the same ones every time."""
    import torch

    torch.manual_seed(0)
    model = kind.make()
    model.save_pretrained(folder / "base", **kind.saving)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for batch in kind.batches(STEPS, 0):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "tuned", **kind.saving)
    return folder / "base", folder / "tuned"


def _chains(steps: int, seed: int) -> Iterator[dict[str, Any]]:
    """Sequences in which each number follows from the one before."""
    import torch

    random = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        row = [torch.randint(0, 61, (16,), generator=random)]
        while len(row) < 16:
            row.append((5 * row[-1] + 3) % 61)
        numbers = torch.stack(row, dim=1)
        yield {"input_ids": numbers, "labels": numbers}


def _pictures(steps: int, seed: int) -> Iterator[dict[str, Any]]:
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


def _mixtral() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads))


def _gpt_oss() -> Any:
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return GptOssForCausalLM(GptOssConfig(**sizes, **heads))


def _resnet() -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", num_labels=4))


STACKED = {
    "mixtral-fused": Stacked(_mixtral, _chains, {"save_original_format": False}, ("gate_up_proj", "down_proj")),
    "mixtral": Stacked(_mixtral, _chains, {}, None),
    "gpt-oss": Stacked(_gpt_oss, _chains, {}, ("gate_up_proj", "down_proj")),
    "resnet": Stacked(_resnet, _pictures, {}, ("convolution.weight",)),
}
"""By name."""
