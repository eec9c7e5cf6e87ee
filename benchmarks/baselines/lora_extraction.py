"""LoRA extraction: the delta of each linear layer cut to its leading singular triplets, as a PEFT adapter in bf16.

By Eckart and Young that is the nearest adapter of a rank. The embedding is carried too where that is asked for, with
the same rank; the deltas of the norms, which an adapter cannot hold, never are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.baselines.singular import decompositions
from skillpack.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.baselines.singular import Triplets

_LINEAR = re.compile(r".*\.layers\.\d+\..*_proj\.weight")
_EMBEDDING = "model.embed_tokens.weight"


class LoraExtraction:
    """The leading singular triplets of every layer's delta, from which adapters of any smaller rank are cut."""

    def __init__(self, base: Path, tuned: Path, rank: int, *, embedding: bool = False) -> None:
        self.rank, self.embedding = rank, embedding
        self._base = base
        self._triplets = _triplets(base, tuned, rank, embedding=embedding)

    def save(self, rank: int, folder: Path) -> int:
        """Write the adapter of a rank; returns the bytes of its files."""
        from peft import LoraConfig
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, torch.Tensor] = {}
        for module, (left, strengths, right) in self._triplets.items():
            roots = strengths[:rank].sqrt()
            up, down = left[:, :rank] * roots, right[:rank] * roots[:, None]
            if module == _EMBEDDING.removesuffix(".weight"):
                # PEFT keeps the factors of a lookup table, whose rows are inputs, the other way round.
                pair = {"lora_embedding_A": up.T, "lora_embedding_B": down.T}
            else:
                pair = {"lora_A.weight": down, "lora_B.weight": up}
            tensors |= {
                f"base_model.model.{module}.{name}": factor.to(torch.bfloat16).contiguous()
                for name, factor in pair.items()
            }
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        targets = sorted({module.rpartition(".")[2] for module in self._triplets})
        LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type="CAUSAL_LM").save_pretrained(str(folder))
        return sum(file.stat().st_size for file in folder.iterdir())

    def load(self, folder: Path) -> Any:
        """The base with the adapter merged in, in fp32, so that no rounding to bf16 is held against the method."""
        from peft import PeftModel

        from recipes.measure import load

        return PeftModel.from_pretrained(load(self._base), str(folder)).merge_and_unload()


def _triplets(base: Path, tuned: Path, rank: int, *, embedding: bool) -> dict[str, Triplets]:
    before, after = open_checkpoint(base), open_checkpoint(tuned)
    known = decompositions(base, tuned)
    found = {}
    for name in after.tensors:
        if _LINEAR.fullmatch(name) or (embedding and name == _EMBEDDING):
            delta = after.read(name).float32() - before.read(name).float32()
            triplets = known.of(name, torch.from_numpy(delta)).leading(rank)
            found[name.removesuffix(".weight")] = triplets
    return found
