"""The streams of a skill on the new base: copied where they say what to add, coded anew where they say what is.

A tensor that came back bit for bit becomes, on the new base, what an install makes of a sum: the new base's tensor plus
the difference of fine-tune and old base, in fp32 and with one cast. That value is again coded without loss. One tensor
is in memory at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.codecs import Exact, Raw, codec_named
from skillpack.codecs.entropy import ChunkReader, Histogram, Tables, count_all, encode_chunk
from skillpack.codecs.protocol import Layout
from skillpack.errors import NotFiniteError, SkillPackError
from skillpack.manifest import FILES, Manifest, Part, block_of
from skillpack.packing.payload import Payload, skill_size
from skillpack.progress import Stage
from skillpack.rebasing.conflicts import PIECE, Sums, piece, summarise, sums_of, tensor_conflict
from skillpack.rebasing.files import moved_files
from skillpack.rebasing.moves import moved_gone, plan_moves
from skillpack.skill import Decoded, first_rows
from skillpack.summing import Claim, installed_tensor
from skillpack.tensors import FLOAT_DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.manifest import TensorEntry
    from skillpack.progress import Progress
    from skillpack.rebasing.bases import Bases
    from skillpack.rebasing.conflicts import Conflicts, TensorConflict
    from skillpack.rebasing.files import MovedFile
    from skillpack.rebasing.moves import Move
    from skillpack.skill import Skill
    from skillpack.tensors import Floats

_CONTEXT: Final = f"{Exact.name}."
"""What the names of the exact codec's contexts begin with."""
_TIED: Final = "it is tied to another tensor"
_NEW: Final = "only the fine-tune has it"
_INTEGER: Final = "it does not hold floating-point numbers"
_UNKNOWN: Final = "the old base is not given"
_NOT_FINITE: Final = "it holds NaN or infinity"


@dataclass(frozen=True)
class Rebased:
    """A skill on its new base, before it is put into a store.

    Attributes:
        manifest: what it changes.
        payload: its coded streams; to be closed.
        size: bytes of everything that its digest will cover.
        conflicts: how far the new base moved.
    """

    manifest: Manifest
    payload: Payload
    size: int
    conflicts: Conflicts


class _Pair(NamedTuple):
    """A tensor in both bases."""

    old: Tensor
    new: Tensor


def rebased(skill: Skill, bases: Bases, progress: Progress) -> Rebased:
    """Move a skill to the new base.

    Args:
        skill: opened.
        bases: both bases.
        progress: told about bytes of tensors that the skill changes.

    Raises:
        ConflictError, UsageError, WrongBaseError: see `skillpack.rebasing.moves` and `skillpack.rebasing.files`.
        NotFiniteError: a tensor cannot be moved, since it holds NaN or infinity.
        DamagedSkillError: a stream makes no sense.
    """
    moves = plan_moves(skill, bases)
    files = moved_files(skill, bases)
    work = _Work(skill, bases, moves)
    conflicts, tables = work.examine(progress)
    payload = Payload()
    try:
        entries = work.code(payload, Tables.from_json(tables), progress)
        for _, content in files:
            payload.add(FILES, content)
        manifest = _manifest(skill, bases, entries, files, tables)
        return Rebased(manifest, payload, skill_size(manifest, payload.sizes()), conflicts)
    except BaseException:
        payload.close()
        raise


class _Work:
    """One skill and where each of its tensors goes."""

    def __init__(self, skill: Skill, bases: Bases, moves: Sequence[Move]) -> None:
        self._skill, self._bases, self._moves = skill, bases, moves
        # The tensors of one codec share its frequency tables, so that one cannot be coded anew alone.
        anew = any(move.recoded and _is_exact(move.before) for move in moves)
        self._recoded = {move.after.name for move in moves if move.recoded or (anew and _is_exact(move.before))}
        self._anew = anew

    def examine(self, progress: Progress) -> tuple[Conflicts, dict[str, object]]:
        """How far the base moved, and the frequency tables for all streams."""
        stage = self._stage(progress, "comparing the bases")
        histogram, found = Histogram(), []
        for move in self._moves:
            found.append(self._examined(move, histogram))
            stage.advance(self._nbytes(move))
        tables = dict(self._skill.manifest.tables)
        if self._anew:
            tables = {context: table for context, table in tables.items() if not context.startswith(_CONTEXT)}
            tables |= histogram.tables().to_json()
        return summarise(found), tables

    def code(self, payload: Payload, tables: Tables, progress: Progress) -> list[TensorEntry]:
        """Put the streams of all tensors into `payload`; returns the entries that say how to read them."""
        stage = self._stage(progress, "coding")
        entries = []
        for move in self._moves:
            entry, streams = self._coded(move, tables)
            for stream in streams:
                payload.add(block_of(entry.name), stream)
            entries.append(entry)
            stage.advance(self._nbytes(move))
        return entries

    def _examined(self, move: Move, histogram: Histogram) -> tuple[TensorConflict, Sums]:
        reason = self._why_no_figures(move)
        recoded = move.after.name in self._recoded
        sums = Sums()
        if not reason or recoded:
            pair = self._pair(move)
            delta = self._delta(move, pair)
            if not reason and not np.isfinite(delta).all():
                reason = _NOT_FINITE
            if not reason:
                sums = sums_of(delta, *pair)
            if recoded:
                value = self._moved_value(move, pair, delta)
                codec = _lossless(value)
                histogram.merge(count_all(codec.encode(first_rows(pair.new, value.shape), value).chunks()))
        found = tensor_conflict(move.after.name, sums, changed=move.changed, recoded=move.recoded, reason=reason)
        return found, sums

    def _why_no_figures(self, move: Move) -> str:
        entry = move.before
        if entry.reference is None:
            return _NEW
        if entry.main is None:
            return _TIED
        if entry.dtype not in FLOAT_DTYPES:
            return _INTEGER
        return _UNKNOWN if self._bases.old is None and move.changed else ""

    def _coded(self, move: Move, tables: Tables) -> tuple[TensorEntry, list[bytes]]:
        streams = self._skill.streams(move.before)
        if move.after.name not in self._recoded:
            return move.after, streams
        pair = self._pair(move)
        value = self._moved_value(move, pair, self._delta(move, pair))
        reference, codec = first_rows(pair.new, value.shape), _lossless(value)
        encoding = codec.encode(reference, value)
        chunks = [encode_chunk(chunk, tables) for chunk in encoding.chunks()]
        _check(move, codec.name, reference, value, [ChunkReader(chunk, tables) for chunk in chunks])
        main = Part(codec.name, encoding.parameters, tuple(map(len, chunks)))
        return replace(move.after, main=main, error=0.0), [*chunks, *streams[1:]]

    def _pair(self, move: Move) -> _Pair:
        new = self._bases.new.read(str(move.after.reference))
        # What did not change can be read from either.
        old = new if self._bases.old is None else self._bases.old.read(str(move.before.reference))
        return _Pair(old, new)

    def _delta(self, move: Move, pair: _Pair) -> Floats:
        """What the skill adds to the old base's tensor, fp32, of the rows in common."""
        decoded = self._skill.decode(move.before, pair.old)
        if decoded.delta is not None:
            return decoded.delta
        value = decoded.value
        if value is None:
            raise ValueError(f"tensor {move.before.name} decodes to nothing")
        return _difference(value, first_rows(pair.old, value.shape))

    def _moved_value(self, move: Move, pair: _Pair, delta: Floats) -> Tensor:
        """The tensor on the new base, of the rows in common; as it was where the base did not change."""
        if not move.changed:
            value = self._skill.decode(move.before, pair.new).value
            if value is not None:
                return value
        entry = replace(move.after, shape=delta.shape, common_rows=None, rows=None)
        claim = Claim(self._skill.digest, self._skill.name, 1.0, entry, lambda: Decoded(None, delta, None))
        if not np.isfinite(delta).all():
            raise NotFiniteError(
                f"tensor {move.before.name} holds NaN or infinity in the fine-tune or in the old base, and its change "
                "cannot be moved to other values",
                hint="Fine-tune again on the new base.",
            )
        return installed_tensor(first_rows(pair.new, delta.shape), [claim])

    def _stage(self, progress: Progress, what: str) -> Stage:
        return Stage(progress, what, sum(map(self._nbytes, self._moves)))

    def _nbytes(self, move: Move) -> int:
        reference = move.after.reference
        return 0 if reference is None else self._bases.new.tensors[reference].nbytes


def _difference(value: Tensor, old: Tensor) -> Floats:
    """Value minus old, fp32; piece by piece, so that no third tensor of that size is there."""
    size = math.prod(value.shape)
    found = np.empty(size, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, size, PIECE):
            span = slice(start, min(size, start + PIECE))
            np.subtract(piece(value, span).float32(), piece(old, span).float32(), out=found[span])
    return found.reshape(value.shape)


def _is_exact(entry: TensorEntry) -> bool:
    return entry.main is not None and entry.main.codec == Exact.name


def _lossless(value: Tensor) -> Exact | Raw:
    return Exact() if value.dtype in Exact.dtypes else Raw()


def _check(move: Move, codec: str, reference: Tensor, value: Tensor, readers: Sequence[ChunkReader]) -> None:
    chunks: Iterator[ChunkReader] = iter(readers)
    found = codec_named(codec).decode({}, chunks, Layout(value.dtype, value.shape), reference)
    if not isinstance(found, Tensor) or not np.array_equal(found.data, value.data):
        raise SkillPackError(
            f"tensor {move.after.name} did not decode to the same bits; nothing was stored",
            hint="Please report this with the tensor.",
        )


def _manifest(
    skill: Skill, bases: Bases, entries: Sequence[TensorEntry], files: Sequence[MovedFile], tables: dict[str, object]
) -> Manifest:
    return Manifest(
        base_fingerprint=bases.fingerprint,
        # What the deltas were taken from is what it was.
        tuned_fingerprint=skill.manifest.tuned_fingerprint,
        renaming=bases.naming.installed,
        gone=moved_gone(skill, bases),
        tensors=tuple(entries),
        files=tuple(file.entry for file in files),
        tables=tables,
    )
