"""What differs between a base and a fine-tune, sorted into what a method codes and what is stored as it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import torch

from skillpack.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from skillpack.checkpoint import TensorInfo
    from skillpack.tensors import Tensor

Embedding = Literal["coded", "whole", "base"]
"""What becomes of embedding and head: coded like other matrices (or as the method says), stored as in tuned, or left
as in the base."""

EMBEDDINGS: tuple[Embedding, ...] = ("whole", "coded", "base")
WITHOUT_WHOLE: tuple[Embedding, ...] = ("coded", "base")

_EMBEDDING = re.compile(r"(^|\.)(\w*embeddings?|\w*embed_(tokens|in|out)|wte|wpe|lm_head)\.weight")


def is_embedding(name: str) -> bool:
    """Whether a tensor is an embedding or a head over the vocabulary, as far as its name says.

    >>> [is_embedding(name) for name in ("model.embed_tokens.weight", "lm_head.weight", "h.0.mlp.up_proj.weight")]
    [True, True, False]
    """
    return _EMBEDDING.search(name) is not None


class Changes:
    """The tensors of a fine-tune that are not in its base as they are.

    Attributes:
        base: folder of the base.
        tuned: folder of the fine-tune.
        coded: names of the matrices that a method codes, sorted; embeddings among them where that is asked for.
        whole: names of all others that changed: norms, biases, and what the base does not have in that shape.
    """

    def __init__(self, base: Path, tuned: Path, embedding: Embedding) -> None:
        self.base, self.tuned = base, tuned
        self._base, self._tuned = open_checkpoint(base), open_checkpoint(tuned)
        self.coded: list[str] = []
        self.whole: list[str] = []
        for name, info in self._tuned.tensors.items():
            if self._is_equal(name, info):
                continue
            if not self._is_matrix(name, info):
                self.whole.append(name)
            elif embedding == "coded" or not is_embedding(name):
                self.coded.append(name)
            elif embedding == "whole":
                self.whole.append(name)

    def delta(self, name: str) -> torch.Tensor:
        """Tuned minus base, fp32."""
        return torch.from_numpy(self._tuned.read(name).float32() - self._base.read(name).float32())

    def tensor(self, name: str) -> Tensor:
        """A tensor of the fine-tune as it is stored."""
        return self._tuned.read(name)

    def is_shaped_as_base(self, name: str) -> bool:
        """Whether the base has a tensor of that name, dtype and shape."""
        one, other = self._base.tensors.get(name), self._tuned.tensors[name]
        return one is not None and (one.dtype, one.shape) == (other.dtype, other.shape)

    def _is_equal(self, name: str, info: TensorInfo) -> bool:
        if not self.is_shaped_as_base(name):
            return False
        return info.nbytes == 0 or bool((self._base.read(name).data == self._tuned.read(name).data).all())

    def _is_matrix(self, name: str, info: TensorInfo) -> bool:
        before = self._base.tensors.get(name)
        if before is None or before.shape != info.shape or len(info.shape) != 2:
            return False
        return self._base.read(name).is_float and self._tuned.read(name).is_float
