"""Beginnings of prompts that were read before: their keys and values, by skills and tokens.

What is kept is what the same forward pass would compute again, bit for bit, since prompts are always read in the same
pieces. Skills are known by digest and weight: another version under the same name finds nothing of the first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.serving.choices import Choice
    from skillpack.serving.slots import Block


class Prefixes:
    """The pieces that were used last, up to a number of bytes.

    Args:
        limit: bytes; 0 keeps nothing.
        piece: tokens in which prompts are read.
    """

    def __init__(self, limit: int, piece: int) -> None:
        self._limit = limit
        self._piece = piece
        self._kept: OrderedDict[bytes, Block] = OrderedDict()
        self.nbytes = 0

    def keys(self, choice: Choice, tokens: Sequence[int]) -> list[bytes]:
        """A key for each whole piece of a prompt, which stands for all that is before it as well."""
        return list(self._keys(choice, tokens)) if self._limit else []

    def find(self, keys: Sequence[bytes]) -> list[Block]:
        """The longest beginning that is kept, piece by piece."""
        found = []
        for key in keys:
            block = self._kept.get(key)
            if block is None:
                break
            self._kept.move_to_end(key)
            found.append(block)
        return found

    def wants(self, key: bytes) -> bool:
        """Whether a piece is not kept yet."""
        return key not in self._kept

    def add(self, key: bytes, block: Block) -> None:
        """Keep a piece, and forget those that were not used for the longest time."""
        self._kept[key] = block
        self.nbytes += _size(block)
        while self.nbytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= _size(oldest)

    def forget(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.nbytes = 0

    def _keys(self, choice: Choice, tokens: Sequence[int]) -> Iterator[bytes]:
        key = hashlib.sha256(repr(choice).encode()).digest()
        for start in range(0, len(tokens) - self._piece + 1, self._piece):
            piece = np.asarray(tokens[start : start + self._piece], np.int64).tobytes()
            key = hashlib.sha256(key + piece).digest()
            yield key


def _size(block: Block) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in block)
