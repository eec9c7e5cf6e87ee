"""What many texts begin with, such as the system prompt of a chat template, goes through a model only once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.live.batches import Batch

_LAYER: Final = "DynamicLayer"
"""How caches of transformers from 5 on name a layer that keeps the keys and values of all tokens, and nothing else."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the tokens that all rows of some batches begin with.

    Attributes:
        length: of these tokens.
        leaves: of each layer the keys and the values that texts go on from, of shape (1, heads, length, width) each;
            where gradients are on, those with respect to them gather here.
        computed: the same as they came out of the model.
    """

    length: int
    leaves: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    computed: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def cache(self, rows: int) -> Any:
        """What a model takes as `past_key_values` to go on from here in each row."""
        # Only here, since transformers takes seconds to load.
        from transformers import DynamicCache

        cache = DynamicCache()
        for place, (keys, values) in enumerate(self.leaves):
            cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), place)
        return cache

    def backward(self) -> None:
        """Hand on to the model's weights the gradients that backward passes of texts have left here."""
        pairs = list(zip(chain(*self.computed), chain(*self.leaves), strict=True))
        computed = [tensor for tensor, leaf in pairs if leaf.grad is not None]
        if computed:
            torch.autograd.backward(computed, [leaf.grad for _, leaf in pairs if leaf.grad is not None])


def read_prefix(model: Any, batches: Sequence[Batch]) -> Prefix | None:
    """Let a language model read what all rows of some batches begin with, up to the first prediction that counts.

    Gradients are taken if they are on.

    Args:
        model: as `skillpack.live.models.open_model` gives it.
        batches: from `skillpack.live.batches.encode`.

    Returns:
        None where rows have no beginning in common, and of a model that keeps anything else than keys and values.
    """
    length = common_length(batches)
    if not length or model.config.is_encoder_decoder or not model.can_generate():
        return None
    output = model(input_ids=batches[0].input_ids[:1, :length], use_cache=True)
    layers = getattr(getattr(output, "past_key_values", None), "layers", None)
    if not layers or any(type(layer).__name__ != _LAYER for layer in layers):
        return None
    computed = tuple((layer.keys, layer.values) for layer in layers)
    leaves = tuple(
        (keys.detach().requires_grad_(keys.requires_grad), values.detach().requires_grad_(values.requires_grad))
        for keys, values in computed
    )
    return Prefix(length, leaves, computed)


def common_length(batches: Sequence[Batch]) -> int:
    """How many tokens all rows begin with and need no prediction for; each row has more."""
    scored = [batch.scored.any(0) for batch in batches if batch.scored.any()]
    if not scored:
        return 0
    length = min(int(columns.long().argmax()) for columns in scored)
    first = batches[0].input_ids[0]
    for batch in batches:
        length = min(length, batch.input_ids.shape[1], len(first))
        same = (batch.input_ids[:, :length] == first[:length]) & batch.attention_mask[:, :length].bool()
        different = (~same.all(0)).nonzero()
        length = int(different[0]) if len(different) else length
    return min(length, *(int(batch.attention_mask.sum(1).min()) - 1 for batch in batches))
