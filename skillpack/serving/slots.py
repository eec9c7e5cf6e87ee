"""Keys and values of attention for many sequences of different lengths, each in a slot of its own.

A sequence begins at the first place of its slot whatever its neighbours are, so that nothing moves when a longer one
joins them or leaves. Memory grows with the longest sequence and is given back when nothing runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

if TYPE_CHECKING:
    from collections.abc import Sequence

Block = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of a range of tokens, of every layer, of shape (heads, tokens, size)."""

_STEP: Final = 64
"""Tokens by which slots grow at least."""
STAGE: Final = 0
"""Slot in which a prompt is read, until its sequence becomes a row; row 0 is the slot after it."""


class _Window:
    """Where the tokens of the coming forward pass belong, for all layers."""

    def __init__(self) -> None:
        self.rows: slice | torch.Tensor = slice(0, 0)
        self.seen = 0
        # Where the one token of each row goes; None for a piece of a prompt.
        self.places: torch.Tensor | None = None


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer of `Slots`; its tensors have the shape (slots, heads, tokens, size)."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, window: _Window, slots: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.slots = slots

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take dtype, device and sizes from the first keys and values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (self._empty(states, 0) for states in (key_states, value_states))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store what is new and return all that the rows of the forward pass may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window, new = self.window, key_states.shape[-2]
        end = window.seen + new
        self.reserve(end)
        for kept, states in ((self.keys, key_states), (self.values, value_states)):
            if window.places is None:
                kept[window.rows, :, window.seen : end] = states
            else:
                kept[_numbers(window.rows, kept.device), :, window.places] = states[:, :, 0]
        return self.keys[window.rows, :, :end], self.values[window.rows, :, :end]

    def reserve(self, tokens: int) -> None:
        """Make room for this many tokens in every slot."""
        if tokens <= self.keys.shape[2]:
            return
        room = max(tokens + _STEP, 3 * self.keys.shape[2] // 2)
        for name in ("keys", "values"):
            old = getattr(self, name)
            grown = self._empty(old, room)
            grown[:, :, : old.shape[2]] = old
            setattr(self, name, grown)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of keys, and the place of the first."""
        return self.window.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens that the longest row has seen before this forward pass."""
        return self.window.seen

    def get_max_length(self) -> int:
        """There is no maximum."""
        return -1

    def _empty(self, like: torch.Tensor, tokens: int) -> torch.Tensor:
        # Zeros: what is masked is multiplied with 0 all the same, and 0 times what lies about may be NaN.
        return torch.zeros(self.slots, like.shape[1], tokens, like.shape[3], dtype=like.dtype, device=like.device)


class Slots(Cache):
    """What a model of transformers takes as `past_key_values`.

    Args:
        layers: of the model.
        rows: sequences that are continued together, besides the one whose prompt is being read.
    """

    def __init__(self, layers: int, rows: int) -> None:
        self._window = _Window()
        self._own = [_Layer(self._window, rows + 1) for _ in range(layers)]
        super().__init__(layers=[*self._own])

    def read_prompt(self, start: int) -> None:
        """The coming forward pass has a piece of the prompt in the stage, from its token `start` on."""
        self._window.rows = slice(STAGE, STAGE + 1)
        self._window.seen, self._window.places = start, None

    def continue_rows(self, places: torch.Tensor, rows: Sequence[int] | None = None) -> None:
        """The coming forward pass has one token of each row.

        Args:
            places: where in its sequence each token stands, int64 of shape (rows,).
            rows: which rows; by default the first ones, whose keys and values need not be copied together.
        """
        first = STAGE + 1
        everything = slice(first, first + len(places))
        self._window.rows = everything if rows is None else first + torch.tensor(list(rows), device=places.device)
        self._window.seen, self._window.places = int(places.max()), places

    def move(self, source: int, target: int, tokens: int) -> None:
        """Move a sequence of this many tokens to another slot; nothing of it stays in the first."""
        for kept in self._tensors():
            kept[target, :, :tokens] = kept[source, :, :tokens]
        self.clear(source, tokens)

    def clear(self, slot: int, tokens: int) -> None:
        """Forget a sequence of this many tokens."""
        for kept in self._tensors():
            kept[slot, :, :tokens] = 0

    def copy_out(self, start: int, stop: int) -> Block:
        """A copy of a range of the tokens in the stage."""
        return [
            (layer.keys[STAGE, :, start:stop].clone(), layer.values[STAGE, :, start:stop].clone())
            for layer in self._own
        ]

    def copy_in(self, start: int, blocks: Sequence[Block]) -> int:
        """Put ranges of tokens into the stage, one after the other; returns where they end."""
        for block in blocks:
            stop = start + block[0][0].shape[1]
            for layer, (keys, values) in zip(self._own, block, strict=True):
                if not layer.is_initialized:
                    layer.lazy_initialization(keys[None], values[None])
                layer.reserve(stop)
                layer.keys[STAGE, :, start:stop] = keys
                layer.values[STAGE, :, start:stop] = values
            start = stop
        return start

    def shrink(self) -> None:
        """Give all memory back; only while there are no sequences."""
        for layer in self._own:
            layer.keys = layer.values = None
            layer.is_initialized = False

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(kept.nbytes for kept in self._tensors())

    def _tensors(self) -> list[torch.Tensor]:
        return [kept for layer in self._own if layer.is_initialized for kept in (layer.keys, layer.values)]


def _numbers(rows: slice | torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows
