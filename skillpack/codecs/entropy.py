"""The entropy stage: integers grouped by context, coded with asymmetric numeral systems (Duda, arXiv:1311.2540).

A codec sorts its integers into contexts, groups of numbers that are distributed alike. Contexts are shared by all
tensors of a skill: one table of frequencies each, so that tables cost next to nothing. Coding takes two passes over the
same groups: `Histogram` counts, `Tables` fixes the frequencies, `encode_chunk` writes.

All frequencies are integers out of 2**16, so that a table means the same on every machine. The coder itself is
`constriction`'s; a skill's manifest names it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from skillpack.codecs.tokens import ALPHABET, Integers, Tokens, from_tokens, raw_widths, to_tokens
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

CODER: Final = "constriction-ans-24"
"""Name of this coder in a manifest: constriction's 32-bit-word ANS with 24-bit probabilities."""

Group = tuple[str, Integers]
"""A context and the 1-D integers that belong to it."""
Chunk = list[Group] | bytes
"""What is coded as one stream: groups for the coder, or bytes that a codec has already coded."""

_TOTAL: Final = 1 << 16
_PIECE: Final = 16
"""Raw bits are coded in pieces of at most this many."""


class Histogram:
    """Counts of tokens per context, and of raw bits."""

    def __init__(self) -> None:
        self.counts: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(ALPHABET, np.int64))
        self.raw_bits = 0
        self.raw_bytes = 0

    def add(self, chunk: Chunk) -> None:
        """Count one chunk."""
        if isinstance(chunk, bytes):
            self.raw_bytes += len(chunk)
            return
        for context, values in chunk:
            if not values.size:
                continue
            tokens, _, widths = to_tokens(values)
            self.counts[context] += np.bincount(tokens, minlength=ALPHABET)
            self.raw_bits += int(widths.sum(dtype=np.int64))

    def merge(self, other: Histogram) -> None:
        """Add another histogram to this one."""
        for context, counts in other.counts.items():
            self.counts[context] += counts
        self.raw_bits += other.raw_bits
        self.raw_bytes += other.raw_bytes

    def tables(self) -> Tables:
        """The frequencies that code what was counted."""
        return Tables({context: Table.fitted(counts) for context, counts in sorted(self.counts.items())})

    def size(self, tables: Tables | None = None) -> float:
        """Bytes that the counted chunks take when coded with `tables`, by default the ones fitted to them."""
        tables = self.tables() if tables is None else tables
        bits = sum(tables[context].cost(counts) for context, counts in self.counts.items())
        return (bits + self.raw_bits) / 8 + self.raw_bytes


@dataclass(frozen=True, eq=False)
class Table:
    """Frequencies of the tokens of one context.

    Attributes:
        tokens: the tokens that occur, ascending, int32.
        frequencies: int64, positive, summing to 2**16.
        values: the integers that the tokens stand for; None if some tokens have raw bits.
    """

    tokens: npt.NDArray[np.int32]
    frequencies: npt.NDArray[np.int64]
    _places: npt.NDArray[np.int32] = field(init=False, repr=False)
    values: Integers | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        whole = not raw_widths(self.tokens).size
        object.__setattr__(self, "values", from_tokens(self.tokens, np.empty(0, np.int64)) if whole else None)
        places = np.full(ALPHABET, -1, np.int32)
        places[self.tokens] = np.arange(len(self.tokens), dtype=np.int32)
        object.__setattr__(self, "_places", places)

    @classmethod
    def fitted(cls, counts: npt.NDArray[np.int64]) -> Table:
        """The table for what was counted: every token that occurs at least once gets a frequency of at least one."""
        tokens = np.flatnonzero(counts).astype(np.int32)
        seen = counts[tokens]
        # The rare ones' share is set aside first, so that what is left over is never negative.
        frequencies = np.maximum(1, seen * (_TOTAL - len(tokens)) // seen.sum())
        frequencies[int(np.argmax(frequencies))] += _TOTAL - int(frequencies.sum())
        return cls(tokens, frequencies)

    def cost(self, counts: npt.NDArray[np.int64]) -> float:
        """Bits that tokens with these counts take."""
        return float(counts[self.tokens] @ (np.log2(_TOTAL) - np.log2(self.frequencies)))

    def places(self, tokens: Tokens) -> Tokens:
        """Position of each token in the table."""
        return self._places[tokens]

    def model(self) -> Any:
        """The coder's model, or None when one token takes all, so that nothing need be coded."""
        import constriction

        if len(self.tokens) == 1:
            return None
        return constriction.stream.model.Categorical(self.frequencies / _TOTAL, perfect=False)

    def to_json(self) -> list[list[int]]:
        """Gaps between tokens, and frequencies."""
        return [np.diff(self.tokens, prepend=0).tolist(), self.frequencies.tolist()]

    @classmethod
    def from_json(cls, document: Any) -> Table:
        """Inverse of `to_json`; raises ValueError if it is no table."""
        gaps, frequencies = (np.array(row, dtype=np.int64) for row in document)
        tokens = np.cumsum(gaps)
        sound = (
            gaps.ndim == 1 and gaps.shape == frequencies.shape and gaps.size > 0
            and gaps[0] >= 0 and (gaps[1:] > 0).all() and (gaps < ALPHABET).all() and tokens[-1] < ALPHABET
            and (frequencies > 0).all() and (frequencies <= _TOTAL).all() and frequencies.sum() == _TOTAL
        )  # fmt: skip
        if not sound:
            raise ValueError("not a frequency table")
        return cls(tokens.astype(np.int32), frequencies)


class Tables:
    """The tables of a skill by context; the coder's models are made at first use."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = dict(tables)
        self._models: dict[str, Any] = {}

    def __getitem__(self, context: str) -> Table:
        try:
            return self._tables[context]
        except KeyError:
            raise DamagedSkillError(f"the skill has no frequency table for context {context}") from None

    def extended(self, others: Mapping[str, Table]) -> Tables:
        """These tables and others, of other contexts."""
        return Tables({**self._tables, **others}) if others else self

    def model(self, context: str) -> Any:
        """The coder's model of a context."""
        if context not in self._models:
            self._models[context] = self[context].model()
        return self._models[context]

    def within(self, name: str) -> dict[str, Table]:
        """The tables as ``NAME/CONTEXT``, see `ChunkReader.with_tables`."""
        return {f"{name}/{context}": table for context, table in self._tables.items()}

    def to_json(self) -> dict[str, Any]:
        """Context -> table, for the manifest."""
        return {context: table.to_json() for context, table in sorted(self._tables.items())}

    @classmethod
    def from_json(cls, document: Any) -> Tables:
        """Inverse of `to_json`; raises ValueError or TypeError if it is not such a mapping."""
        return cls({context: Table.from_json(table) for context, table in document.items()})


def encode_chunk(chunk: Chunk, tables: Tables) -> bytes:
    """Code one chunk as a stream of little-endian 32-bit words."""
    import constriction

    if isinstance(chunk, bytes):
        return chunk
    coder = constriction.stream.stack.AnsCoder()
    # The coder is a stack: what is to be decoded first is encoded last.
    for symbols, model in reversed([step for group in chunk for step in _steps(*group, tables)]):
        coder.encode_reverse(symbols, model)
    return cast("bytes", coder.get_compressed().astype("<u4").tobytes())


def _steps(context: str, values: Integers, tables: Tables) -> Iterator[tuple[Tokens, Any]]:
    """What the coder writes for one group, in the order in which it will be read."""
    if not values.size:
        return
    tokens, raw, widths = to_tokens(values)
    model = tables.model(context)
    if model is not None:
        yield tables[context].places(tokens), model
    for width in np.flatnonzero(np.bincount(widths)).tolist():
        bits = raw[widths == width]
        for shift, count in _pieces(width):
            yield ((bits >> shift) & ((1 << count) - 1)).astype(np.int32), _uniform(count)


def _pieces(width: int) -> list[tuple[int, int]]:
    """Shift and number of bits of each piece of a `width`-bit number."""
    return [(shift, min(_PIECE, width - shift)) for shift in range(0, width, _PIECE)]


def _uniform(bits: int) -> Any:
    import constriction

    return constriction.stream.model.Uniform(1 << bits)


class ChunkReader:
    """Reads back the groups of one chunk in their order."""

    def __init__(self, data: bytes, tables: Tables, within: str = "") -> None:
        self.data = data
        self._tables = tables
        self._within = within
        self._coder: Any = None

    def with_tables(self, name: str) -> ChunkReader:
        """The same chunk, read from its start with the tables that are called ``NAME/CONTEXT``."""
        return ChunkReader(self.data, self._tables, f"{self._within}{name}/")

    def take(self, context: str, count: int) -> Integers:
        """The next group: `count` integers of `context`."""
        if not count:
            return np.empty(0, np.int64)
        context = self._within + context
        table, model = self._tables[context], self._tables.model(context)
        places = np.zeros(count, np.int32) if model is None else self._decode(model, count)
        if table.values is not None:
            return table.values[places]
        tokens = table.tokens[places]
        widths = raw_widths(tokens)
        raw = np.zeros(widths.size, np.int64)
        for width in np.flatnonzero(np.bincount(widths)).tolist():
            chosen = widths == width
            for shift, bits in _pieces(width):
                raw[chosen] |= self._decode(_uniform(bits), int(chosen.sum())).astype(np.int64) << shift
        return from_tokens(tokens, raw)

    def finish(self) -> None:
        """Check that everything was read.

        Raises:
            DamagedSkillError: something is left over.
        """
        left = self.data if self._coder is None else not self._coder.is_empty()
        if left:
            raise DamagedSkillError("a coded stream is longer than its content")

    def _decode(self, model: Any, count: int) -> npt.NDArray[np.int32]:
        import constriction

        if self._coder is None:
            if len(self.data) % 4:
                raise DamagedSkillError("a coded stream is not a whole number of words")
            self._coder = constriction.stream.stack.AnsCoder(np.frombuffer(self.data, "<u4").astype(np.uint32))
        return cast("npt.NDArray[np.int32]", self._coder.decode(model, count))


def count_all(chunks: Iterable[Chunk]) -> Histogram:
    """Histogram of all chunks."""
    histogram = Histogram()
    for chunk in chunks:
        histogram.add(chunk)
    return histogram
