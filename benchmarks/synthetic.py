"""A sharded bf16 checkpoint and a fine-tune of it, of any size, with names and shapes like Llama's."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SHARDS = 4
_WEIGHT = 0.02
_RANK = 8
_LOW_RANK = 4e-4
_DENSE = 1e-4


@dataclass(frozen=True)
class Architecture:
    """What decides the tensors: widths in elements."""

    hidden: int
    inner: int
    key_value: int
    vocabulary: int
    layers: int

    @classmethod
    def of_size(cls, size: int) -> Architecture:
        """The one whose bf16 checkpoint comes closest to `size` bytes."""
        hidden, inner, key_value, vocabulary = (2048, 5632, 256, 32000) if size >= 1e9 else (768, 2048, 192, 16000)
        layer = 2 * (2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner)
        layers = max(1, round((size - 4 * vocabulary * hidden) / layer))
        return cls(hidden, inner, key_value, vocabulary, layers)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape, in the order of the layers."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            block = {
                "input_layernorm": (self.hidden,),
                "self_attn.q_proj": (self.hidden, self.hidden),
                "self_attn.k_proj": (self.key_value, self.hidden),
                "self_attn.v_proj": (self.key_value, self.hidden),
                "self_attn.o_proj": (self.hidden, self.hidden),
                "post_attention_layernorm": (self.hidden,),
                "mlp.gate_proj": (self.inner, self.hidden),
                "mlp.up_proj": (self.inner, self.hidden),
                "mlp.down_proj": (self.hidden, self.inner),
            }
            shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
        return shapes | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocabulary, self.hidden)}


def write_pair(root: Path, architecture: Architecture) -> tuple[Path, Path]:
    """Write a base and its fine-tune below `root`, one shard in memory at a time; the same bytes every time.

    Every tensor of the fine-tune differs: by a matrix of low rank with falling strengths, and by a little noise.
    """
    shards = list(_shards(architecture.tensors()))
    for kind in ("base", "tuned"):
        folder = root / kind
        folder.mkdir(parents=True)
        places: dict[str, str] = {}
        for number, shapes in enumerate(shards, 1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            tensors = {name: _tensor(name, shape, tuned=kind == "tuned") for name, shape in shapes.items()}
            save_file(tensors, folder / file, {"format": "pt"})
            places |= dict.fromkeys(shapes, file)
        size = sum(2 * math.prod(shape) for shape in architecture.tensors().values())
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return root / "base", root / "tuned"


def _shards(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    share = -(-len(shapes) // _SHARDS)
    items = list(shapes.items())
    for first in range(0, len(items), share):
        yield dict(items[first : first + share])


def _tensor(name: str, shape: tuple[int, ...], *, tuned: bool) -> torch.Tensor:
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    if len(shape) == 1:
        values = torch.ones(shape)
    else:
        values = torch.randn(shape, generator=draw).mul_(_WEIGHT).bfloat16().float()
    if tuned:
        values += _DENSE * torch.randn(shape, generator=draw)
        if len(shape) == 2:
            left = torch.randn(shape[0], _RANK, generator=draw) * 2.0 ** -torch.arange(_RANK)
            values += _LOW_RANK * left @ torch.randn(_RANK, shape[1], generator=draw)
    return values.bfloat16()
