"""Which codecs may write which tensor, and what they find out about it before a step size is known."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from skillpack.adapter import AdapterCheckpoint
from skillpack.codecs import codec_named
from skillpack.codecs.direct import Direct, mean_squares
from skillpack.codecs.entropy import count_all
from skillpack.codecs.exact import Exact
from skillpack.codecs.factors import DTYPES, AdapterFactors, LoraFactors
from skillpack.codecs.gaussian import least_bits
from skillpack.codecs.lowrank import Coefficients, LowRank
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.noise import Seed
from skillpack.codecs.protocol import DELTA, Cost, Layout
from skillpack.codecs.raw import Raw
from skillpack.codecs.residual import Residual
from skillpack.codecs.sparse import Sparse
from skillpack.codecs.tucker import Tucker, tensor_shape
from skillpack.errors import NotFiniteError, SkillPackError
from skillpack.packing.allocate import cheapest, total
from skillpack.packing.analysis import LOCAL, Analyst, Offer
from skillpack.packing.spool import give_back, spool, spooled
from skillpack.packing.workers import LARGE
from skillpack.skill import first_rows
from skillpack.tensors import DTYPE_BYTES, FLOAT_DTYPES, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.codecs.entropy import ChunkReader
    from skillpack.codecs.gaussian import Source
    from skillpack.codecs.protocol import Analysis, Encoding, LosslessCodec, LossyCodec
    from skillpack.delta import Change, Delta
    from skillpack.manifest import Part
    from skillpack.tensors import Doubles, Factors, Floats

_BLOCK: Final = 1 << 20
"""Elements of a delta that are worked on at a time."""
_SMALL: Final = 8
"""A matrix with a side shorter than this has no low-rank structure worth coding."""
_VECTOR_STEPS: Final = 16
"""Small tensors (norms, biases) are coded with a step of at most this fraction of their root mean square."""
_SPARSE: Final = 0.25
"""Deltas with a smaller share of entries that are not zero are offered to the sparse codec as well."""
_STATISTICS: Final = re.compile(r"(^|\.)running_(mean|var)$")
"""Rounding might make a variance negative, and the model's outputs with it NaN."""
_EMBEDDING: Final = re.compile(r"(^|\.)(embed\w*|\w*embeddings|wte|shared|lm_head|output)\.weight$")

# An embedding is one layer, so that what plain rounding leaves out does not add up over layers as it does in linear
# ones; its weak columns consist of a few rows that matter, which are all that such rounding leaves.
_LINEAR: Final = LowRank()
_TABLE: Final = LowRank(keep=0.25, dead_zone=0.5)
_TABLE_FINENESS: Final = 0.5
_BY_ENTRIES: Final = (Residual(LowRank(keep=1.0)), Residual(LowRank(keep=2.0)), Direct())


@dataclass(frozen=True)
class LosslessPlan:
    """A tensor, or the new rows of one, that will come back bit for bit whatever the step."""

    codec: LosslessCodec
    delta: Delta
    change: Change
    new_rows: bool = False

    def encode(self, step: float) -> tuple[str, Encoding]:
        """Codec and encoding; the step is not used."""
        del step
        return self.codec.name, self.codec.encode(*self.operands())

    def operands(self) -> tuple[Tensor | None, Tensor]:
        """What the codec works on: the base's part, if any, and the tuned one."""
        if self.new_rows:
            return None, _last_rows(self.delta.tuned.read(self.change.name), self.change.common_rows or 0)
        return _common_rows(self.delta, self.change)

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Decode what was coded and compare it.

        Raises:
            SkillPackError: it does not come back bit for bit.
        """
        reference, tuned = self.operands()
        return _check_same(self.change.name, _decoded(part, readers, tuned, reference), tuned)


@dataclass(frozen=True)
class FactorsPlan:
    """A tensor that an adapter changes by a product: its factors come back bit for bit, and with them the tensor."""

    factors: LoraFactors
    delta: Delta
    change: Change

    def encode(self, step: float) -> tuple[str, Encoding]:
        """Codec and encoding; the step is not used."""
        del step
        return AdapterFactors.name, AdapterFactors().encode(self.factors)

    def operands(self) -> tuple[Tensor | None, Tensor]:
        """The base's and the merged tensor."""
        return _common_rows(self.delta, self.change)

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Decode what was coded, add it to the base and compare.

        Raises:
            SkillPackError: it does not come back bit for bit.
        """
        reference, tuned = self.operands()
        decoded = _decoded(part, readers, tuned, reference)
        if reference is not None and not isinstance(decoded, Tensor):
            with np.errstate(over="ignore", invalid="ignore"):
                decoded = Tensor.from_float32(reference.float32() + decoded, tuned.dtype)
        return _check_same(self.change.name, decoded, tuned)


@dataclass
class LossyPlan:
    """A tensor whose delta is approximated; where there are several codecs the cheapest writes it.

    Attributes:
        delta: of the whole model.
        change: of this tensor.
        seed: of its rounding noise.
        analyses: per codec, what it found out and the greatest step it may use.
        scale: typical strength of a direction per coefficient, in the units of a step; 0 for small tensors.
        energy: squared Frobenius norm of the delta.
        fineness: step that is used, as a share of the one asked for.
        keep: how far down columns of a linear layer are kept, see `LowRank`; None for the usual.
        reach: down to where columns are found out about at least, in the same unit.
        entries: what the entry-wise codecs need; None where no step will make them the cheapest.
    """

    delta: Delta
    change: Change
    seed: Seed
    analyses: list[tuple[LossyCodec, Analysis, float]] = field(default_factory=list)
    scale: float = 0.0
    energy: float = 0.0
    fineness: float = 1.0
    keep: float | None = None
    reach: float = math.inf
    entries: Analysis | None = None
    _moved: Analysis | None = None
    _sources: list[Source] = field(default_factory=list)

    @property
    def elements(self) -> int:
        """Number of coefficients of the delta."""
        return math.prod(common_shape(self.change))

    @property
    def nbytes(self) -> int:
        """Bytes of the tuned tensor's rows that it covers."""
        return self.elements * DTYPE_BYTES[self.change.dtype]

    @property
    def is_matrix(self) -> bool:
        """Whether it is large enough in both directions to have low-rank structure."""
        return min(matrix_shape(common_shape(self.change))) >= _SMALL

    @property
    def is_table(self) -> bool:
        """Whether it has one row for each token."""
        return _EMBEDDING.search(self.change.name) is not None

    @property
    def usual_fineness(self) -> float:
        """The step of such a tensor as a share of the common one, where nothing else is known."""
        return _TABLE_FINENESS if self.is_table else 1.0

    def predicted_bits(self, step: float) -> float:
        """Bits it will take at a step, from its singular values alone; 0 for small tensors."""
        codec, analysis, _ = self._current()[0]
        if not isinstance(codec, LowRank):
            return 0.0
        return codec.predicted(analysis, self.fineness * step).bits

    def analyse(self, finest: float, analyst: Analyst = LOCAL) -> None:
        """Let the codecs look at the delta once, for steps of `finest` and above.

        Raises:
            NotFiniteError: the delta holds NaN or infinity.
        """
        self._sources.clear()
        self._moved = None
        finest *= self.fineness
        factors = self._factors()
        if factors is not None:
            self._analyse_product(*factors, finest)
            return
        values, mean_square, density = self._spooled_delta()
        self.energy, self.scale = mean_square * values.size, self._scale(mean_square)
        offers = self._offers(values.shape, mean_square, density, analyst.device)
        # What small tensors need is found out faster than kept or sent.
        found = (analyst if self.is_matrix else LOCAL).analyse(values, offers, finest)
        self.analyses = [(codec, analysis, limit) for (codec, _, limit), analysis in zip(offers, found, strict=True)]
        if self.is_matrix:
            self._offer_entries(values, finest)

    def _offers(self, shape: tuple[int, ...], mean_square: float, density: float, device: str) -> list[Offer]:
        """Who may write the delta, as a matrix of that shape."""
        if not self.is_matrix:
            return [Offer(Sparse(stochastic=True), shape, math.sqrt(mean_square) / _VECTOR_STEPS or 1.0)]
        offers = [Offer(replace(self._widest, device=device), shape, math.inf)]
        if density < _SPARSE:
            offers.append(Offer(Sparse(), shape, math.inf))
        axes = tensor_shape(common_shape(self.change))
        if axes is not None:
            offers.append(Offer(Tucker(device=device), axes, math.inf))
        return offers

    def _factors(self) -> Factors | None:
        """The delta as a product of two matrices, where the fine-tune is known as that."""
        factors = self.delta.tuned.factors(self.change.name) if self.is_matrix else None
        shape = matrix_shape(common_shape(self.change))
        # A kernel may fold to another matrix than the product of its factors is.
        return factors if factors is not None and (factors[0].shape[0], factors[1].shape[1]) == shape else None

    def _analyse_product(self, left: Doubles, right: Doubles, finest: float) -> None:
        """No codec has anything to add to factors that are exact."""
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise self._not_finite()
        codec = self._widest
        analysis = codec.analyse_product(left, right, finest)
        # No entry is larger than the largest singular value.
        if not np.isfinite(analysis["all_values"]).all():
            raise self._not_finite()
        self.analyses = [(codec, spool(analysis), math.inf)]
        self.energy = float(np.square(analysis["all_values"], dtype=np.float64).sum())
        self.scale = self._scale(self.energy / self.elements)

    def _scale(self, mean_square: float) -> float:
        rows, columns = matrix_shape(common_shape(self.change))
        return math.sqrt(mean_square * max(rows, columns)) / (rows * columns) ** 0.25 if self.is_matrix else 0.0

    def _not_finite(self) -> NotFiniteError:
        return NotFiniteError(
            f"tensor {self.change.name} of the fine-tune holds NaN or infinity",
            hint="Repair the fine-tune, or pack it bit for bit with --exact.",
        )

    def _offer_entries(self, values: Floats, finest: float) -> None:
        """Get the entry-wise codecs ready where they may win; the finer the step, the more they are worth.

        Only there are entries looked at again and again, and kept on disk for that.
        """
        self.entries = None
        # Embeddings are easily overpaid, and being right on average is of no use to them.
        if not math.isfinite(finest) or self.is_table:
            return
        analysis = {**self.analyses[0][1], **spool(mean_squares(values.__getitem__, values.shape)), DELTA: values}
        if self._best_by_entries(analysis, finest) is not None:
            self.entries = analysis

    def _best_by_entries(self, analysis: Analysis, step: float) -> Direct | Residual | None:
        """The entry-wise codec of least predicted cost, if that is below the least that low rank may have."""
        # Columns far below their noise are kept to be right on average, which squared error gives no credit for.
        least = total(replace(self._low_rank, keep=1.0).predicted(analysis, step), step)
        costs = [(total(codec.predicted(analysis, step), step), codec) for codec in _BY_ENTRIES]
        cost, best = min(costs, key=lambda pair: pair[0])
        return best if cost < least else None

    @property
    def _low_rank(self) -> LowRank:
        keep = _LINEAR.keep if self.keep is None else self.keep
        return _TABLE if self.is_table else replace(_LINEAR, keep=keep / self.fineness)

    @property
    def _widest(self) -> LowRank:
        """The codec that finds out about all columns which may be kept."""
        usual = self._low_rank
        return usual if self.is_table else replace(usual, keep=min(usual.keep, self.reach / self.fineness))

    def factors(self, step: float) -> Coefficients | None:
        """What is decoded at a step, where the low-rank codec writes it; None if another codec does."""
        chosen, _ = self.encode(step)
        for codec, analysis, limit in self._current():
            if codec.name == chosen and isinstance(codec, LowRank):
                return codec.factors(analysis, min(self.fineness * step, limit), self.seed)
        return None

    def move(self, step: float, left: Floats, right: Floats) -> None:
        """Let other coefficients be rounded than those of the delta, until `restore`.

        Args:
            step: at which the tensor will be encoded; at others the moves mean nothing.
            left: as `LowRank.moved` takes it; on top of earlier moves.
            right: the same.
        """
        for codec, analysis, limit in self._current():
            if isinstance(codec, LowRank):
                step = min(self.fineness * step, limit)
                self._moved = spool(codec.moved(analysis, step, self.seed, left, right))

    def restore(self) -> None:
        """Let the coefficients of the delta be rounded again."""
        self._moved = None

    def encode(self, step: float) -> tuple[str, Encoding]:
        """Codec and encoding at a step."""
        step *= self.fineness
        best = None if self.entries is None else self._best_by_entries(self.entries, step)
        offers = [
            (codec.name, codec.encode(analysis, min(step, limit), self.seed))
            for codec, analysis, limit in self._current()
            if best is None or not isinstance(codec, LowRank)
        ]
        if best is not None and self.entries is not None:
            offers.append((best.name, best.encode(self.entries, step, self.seed)))
        if len(offers) == 1:
            return offers[0]
        costs = [Cost(offer.distortion, 8 * count_all(offer.chunks()).size()) for _, offer in offers]
        return offers[cheapest(costs, step)]

    def _current(self) -> list[tuple[LossyCodec, Analysis, float]]:
        """The analyses, with coefficients that have been moved, and who codes with them."""
        return [
            (self._low_rank, analysis if self._moved is None else self._moved, limit)
            if isinstance(codec, LowRank)
            else (codec, analysis, limit)
            for codec, analysis, limit in self.analyses
        ]

    def least_bytes(self, error: float) -> float:
        """Bytes that any code needs on average for Gaussians with the delta's structure.

        Of the sources that the codecs make use of, the one that needs least. Only after `analyse`.

        Args:
            error: relative Frobenius error that is left, as `error` gives it.

        Returns:
            0 where leaving out the tensor does no worse, infinity without any error.
        """
        if not self._sources:
            self._sources.extend(codec.source(analysis) for codec, analysis, _ in self.analyses)
        return min(least_bits(source, error**2 * source.energy) for source in self._sources) / 8

    def operands(self) -> tuple[Tensor | None, Tensor]:
        """The base's and the tuned tensor, of the rows they have in common."""
        return _common_rows(self.delta, self.change)

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Decode what was coded; returns its relative error."""
        layout = Layout(self.change.dtype, common_shape(self.change))
        decoded = codec_named(part.codec).decode(part.parameters, readers, layout, None)
        if isinstance(decoded, Tensor):
            raise TypeError(f"codec {part.codec} is lossless")
        if self.elements >= LARGE:
            give_back()
        return self.error(decoded)

    def error(self, decoded: Floats) -> float:
        """Frobenius norm of what coding left out, relative to that of the delta."""
        missed = total = 0.0
        approximation = decoded.reshape(matrix_shape(decoded.shape))
        for rows, block in self._delta_blocks():
            missed += float(np.square(block - approximation[rows], dtype=np.float64).sum())
            total += float(np.square(block, dtype=np.float64).sum())
        return math.sqrt(missed / total) if total else 0.0

    def _spooled_delta(self) -> tuple[Floats, float, float]:
        """The delta as a matrix in a temporary file, its mean square, and the share of entries that are not zero."""
        values = spooled(matrix_shape(common_shape(self.change)), np.float32)
        squares = changed = 0.0
        for rows, block in self._delta_blocks():
            if not np.isfinite(block).all():
                raise self._not_finite()
            values[rows] = block
            squares += float(np.square(block, dtype=np.float64).sum())
            changed += float(np.count_nonzero(block))
        return values, squares / max(1, values.size), changed / max(1, values.size)

    def _delta_blocks(self) -> Iterator[tuple[slice, Floats]]:
        """Blocks of rows of the delta as a matrix, fp32."""
        known = self.delta.tuned.update(self.change.name)
        rows, columns = matrix_shape(common_shape(self.change))
        before, after = (None, None) if known is not None else self.operands()
        size = max(1, _BLOCK // max(1, columns))
        for first in range(0, rows, size):
            block = slice(first, min(rows, first + size))
            if known is not None:
                yield block, known.reshape(-1, columns)[block]
                continue
            if before is None or after is None:
                raise ValueError(f"tensor {self.change.name} has no reference")
            with np.errstate(invalid="ignore", over="ignore"):
                yield block, _float_rows(after, block, columns) - _float_rows(before, block, columns)


class Plan(Protocol):
    """How a tensor, or the new rows of one, will be written."""

    def encode(self, step: float) -> tuple[str, Encoding]:
        """Codec and encoding at a step."""

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Decode what was coded; returns its error relative to the delta, 0 if it comes back bit for bit.

        Raises:
            SkillPackError: it should and does not.
        """


def plan_change(delta: Delta, change: Change, *, exact: bool) -> list[Plan]:
    """How a tensor, and after it the new rows of it, will be written; empty if it need not be.

    Args:
        delta: of the whole model.
        change: the tensor.
        exact: whether it must come back bit for bit.
    """
    if change.same_as is not None:
        return []
    plans: list[Plan] = [_plan_common(delta, change, exact=exact)]
    if change.common_rows is not None and change.common_rows < change.shape[0]:
        plans.append(LosslessPlan(Raw(), delta, change, new_rows=True))
    return plans


def common_shape(change: Change) -> tuple[int, ...]:
    """Shape of the part of a tensor that is relative to its reference; the whole where there is none."""
    return change.shape if change.common_rows is None else (change.common_rows, *change.shape[1:])


def kept_exactly(change: Change) -> bool:
    """Whether a tensor of floats comes back bit for bit whatever is asked for.

    Norms and biases of 16-bit models change by so few units in the last place that exact costs next to nothing.
    """
    matrix = min(matrix_shape(common_shape(change))) >= _SMALL
    return (not matrix and DTYPE_BYTES[change.dtype] == 2) or _STATISTICS.search(change.name) is not None


def _plan_common(delta: Delta, change: Change, *, exact: bool) -> Plan:
    reference = None if change.reference is None else delta.base.tensors[change.reference]
    floats = reference is not None and {reference.dtype, change.dtype} <= FLOAT_DTYPES
    if reference is None or not floats:
        return LosslessPlan(Raw(), delta, change)
    factors = _stored_factors(delta, change) if exact else None
    if factors is not None:
        return FactorsPlan(factors, delta, change)
    if exact or kept_exactly(change):
        return LosslessPlan(Exact() if change.dtype in Exact.dtypes else Raw(), delta, change)
    key = (delta.base_digests[str(change.reference)], delta.tuned_digests[change.name], change.name)
    plan = LossyPlan(delta, change, Seed(key))
    plan.fineness = plan.usual_fineness
    return plan


def _stored_factors(delta: Delta, change: Change) -> LoraFactors | None:
    """What an adapter holds for a tensor, where the tensor can be told from it bit for bit."""
    if not isinstance(delta.tuned, AdapterCheckpoint) or change.common_rows is not None or change.reference is None:
        return None
    if change.dtype not in DTYPES or delta.base.tensors[change.reference].dtype != change.dtype:
        return None
    factors = delta.tuned.lora(change.name)
    return factors if factors is not None and factors.can_be_coded else None


def _decoded(part: Part, readers: Iterator[ChunkReader], tuned: Tensor, reference: Tensor | None) -> Tensor | Floats:
    return codec_named(part.codec).decode(part.parameters, readers, Layout(tuned.dtype, tuned.shape), reference)


def _check_same(name: str, decoded: Tensor | Floats, tuned: Tensor) -> float:
    if not isinstance(decoded, Tensor) or not np.array_equal(decoded.data, tuned.data):
        raise SkillPackError(
            f"tensor {name} did not decode to the same bits; nothing was stored",
            hint="Please report this with the tensor.",
        )
    return 0.0


def _common_rows(delta: Delta, change: Change) -> tuple[Tensor | None, Tensor]:
    reference, tuned = delta.pair(change)
    common = first_rows(tuned, common_shape(change))
    return None if reference is None else first_rows(reference, common.shape), common


def _float_rows(tensor: Tensor, rows: slice, columns: int) -> Floats:
    width = DTYPE_BYTES[tensor.dtype] * columns
    data = tensor.data[rows.start * width : rows.stop * width]
    return Tensor(tensor.dtype, (rows.stop - rows.start, columns), data).float32()


def _last_rows(tensor: Tensor, first: int) -> Tensor:
    width = tensor.nbytes // max(1, tensor.shape[0])
    return Tensor(tensor.dtype, (tensor.shape[0] - first, *tensor.shape[1:]), tensor.data[first * width :])
