"""From a delta to the coded streams and the manifest of a skill."""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import zstandard

from skillpack.codecs.entropy import ChunkReader, Histogram, Tables, count_all, encode_chunk
from skillpack.errors import UsageError
from skillpack.manifest import FILES, CodedFile, Manifest, Part, TensorEntry, block_of
from skillpack.packing.allocate import FinerStepNeededError, fineness, step_for_size
from skillpack.packing.analysis import LOCAL, Analyst
from skillpack.packing.payload import Payload, skill_size
from skillpack.packing.planning import LossyPlan, plan_change
from skillpack.progress import Stage, silent
from skillpack.tensors import DTYPE_BYTES
from skillpack_store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.codecs.entropy import Table
    from skillpack.delta import Change, Delta
    from skillpack.packing.planning import Plan
    from skillpack.packing.unfinished import Unfinished
    from skillpack.packing.workers import Workers
    from skillpack.progress import Progress

DEFAULT_QUALITY: Final = 0.9
_STEP_AT_NO_QUALITY: Final = 44.0
"""Step at quality 0, in units of the typical strength of a direction per coefficient."""
_SAMPLE: Final = 8
"""How many tensors are looked at first to learn what step a goal asks for."""
_MARGIN: Final = 1.6
"""Deltas are analysed for steps finer than expected by this factor."""
_FINER: Final = 256
"""How much finer the last step of a ladder is where there are small tensors only."""


@dataclass(frozen=True)
class Goal:
    """What a pack is to achieve; at most one of the first four is set.

    Attributes:
        exact: come back bit for bit.
        size: bytes on disk of everything that the skill's digest covers.
        quality: between 0 and 1; 1 - quality is proportional to the quantisation step.
        max_kl: mean KL(tuned || packed) on texts, nats per prediction; see `skillpack.packing.divergence`.
        refine: steps of learning, see `skillpack.packing.refining`; None for the usual number where there are texts to
            learn from.

    Raises:
        UsageError: more than one is set, or one is out of range.
    """

    exact: bool = False
    size: int | None = None
    quality: float | None = None
    max_kl: float | None = None
    refine: int | None = 0

    def __post_init__(self) -> None:
        if self.exact + sum(goal is not None for goal in (self.size, self.quality, self.max_kl)) > 1:
            raise UsageError("exact, size, quality and max_kl exclude one another", hint="Choose one of them.")
        if self.refine is not None and (self.refine < 0 or (self.refine and self.exact)):
            raise UsageError("there is nothing to refine", hint="Leave out --refine, or pack without --exact.")
        if self.max_kl is not None and not 0 < self.max_kl < math.inf:
            raise UsageError(f"a KL of {self.max_kl} nats cannot be asked for", hint="Try 0.02, or an exact pack.")
        if self.quality is not None and not 0 < self.quality < 1:
            raise UsageError(f"quality {self.quality} is not between 0 and 1", hint="Try 0.9, or an exact pack.")
        if self.size is not None and self.size <= 0:
            raise UsageError(f"a size of {self.size} bytes is not possible")


@dataclass(frozen=True)
class Packed:
    """A skill before it is put into a store.

    Attributes:
        manifest: what it changes.
        payload: its coded streams; to be closed.
        size: bytes of everything that its digest will cover.
        step: with which it was coded.
        error: Frobenius norm of what coding left out of all approximated tensors, relative to that of their deltas.
    """

    manifest: Manifest
    payload: Payload
    size: int
    step: float
    error: float


class Planner(Protocol):
    """Decides how a tensor, and after it the new rows of it, are written."""

    def __call__(self, delta: Delta, change: Change, *, exact: bool) -> list[Plan]:
        """The plans; none if the tensor need not be written."""


class Extras(NamedTuple):
    """What a manifest says besides what is packed.

    Attributes:
        tables: frequency tables of streams that were coded before.
        recipe: see `Manifest.recipe`.
    """

    tables: Mapping[str, Table] = {}
    recipe: Mapping[str, Any] | None = None


_NO_EXTRAS: Final = Extras()


class _Quality(NamedTuple):
    """How close a tensor came; all zero and None if it is lossless.

    Attributes:
        error: see `LossyPlan.error`.
        bound: see `TensorEntry.bound`.
        missed: squared Frobenius norm of what coding left out.
    """

    error: float = 0.0
    bound: int | None = None
    missed: float = 0.0


class _Checks:
    """Decodes what was coded, unless an interrupted run of the same work has done so with the same bytes.

    Args:
        unfinished: what such a run has left.
        tables: that chunks are coded with.
    """

    def __init__(self, unfinished: Unfinished, tables: Tables) -> None:
        self._unfinished, self._tables = unfinished, tables
        self._about = _sha256(canonical_json(tables.to_json())) if unfinished.kept else ""

    def error(self, name: str, plan: Plan, part: Part, chunks: Sequence[bytes]) -> float:
        """The relative error of a tensor's part; see `Plan.check`."""
        if not self._unfinished.kept:
            return self._measured(plan, part, chunks)
        key = _sha256(canonical_json([name, part.codec, part.parameters, self._about, *map(_sha256, chunks)]))
        error = self._unfinished.checked(key, name)
        if error is None:
            error = self._measured(plan, part, chunks)
            self._unfinished.keep_check(key, error)
        return error

    def _measured(self, plan: Plan, part: Part, chunks: Sequence[bytes]) -> float:
        return plan.check(part, iter([ChunkReader(chunk, self._tables) for chunk in chunks]))


@dataclass
class _Job:
    """One changed tensor on its way.

    Attributes:
        change: the tensor.
        plans: of the part relative to the base and of the new rows, where there are such parts.
        parts: its parts at the latest step that was counted, each in one chunk of the size to expect.
    """

    change: Change
    plans: list[Plan]
    parts: list[Part] = field(default_factory=list)

    @property
    def elements(self) -> int:
        return math.prod(self.change.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * DTYPE_BYTES[self.change.dtype]


class Packer:
    """Packs one delta; keeps what it found out between the steps that a search tries.

    Attributes:
        threads: who counts and codes.
    """

    def __init__(
        self,
        delta: Delta,
        goal: Goal,
        progress: Progress = silent,
        *,
        analyst: Analyst = LOCAL,
        threads: Workers = LOCAL.workers,
        plans: Planner = plan_change,
        extras: Extras = _NO_EXTRAS,
    ) -> None:
        """Prepare to pack.

        Args:
            delta: what to pack.
            goal: what to achieve.
            progress: called during the work.
            analyst: who finds out what is costly to find out.
            threads: who counts and codes.
            plans: decides how each tensor is written.
            extras: what else the manifest says.
        """
        self._delta = delta
        self._goal = goal
        self._analyst = analyst
        self.threads = threads
        self._progress = progress
        self._jobs = [_Job(change, plans(delta, change, exact=goal.exact)) for change in delta.changes]
        self._extras = extras
        self._lossy = [plan for job in self._jobs for plan in job.plans if isinstance(plan, LossyPlan)]
        compressor = zstandard.ZstdCompressor(level=19)
        self._files = [(change, compressor.compress(change.content)) for change in delta.files]
        self._counted: tuple[float, Tables] | None = None
        self._finest = math.inf
        self._last: float | None = None

    def pack(self, *, size: int | None = None, checked: bool = True) -> Packed:
        """Code the delta so that it meets the goal.

        Args:
            size: bytes that it may take, in place of what the goal says.
            checked: decode what was coded. Without that a pack is good to be tried out: errors and bounds in its
                manifest only take as many bytes as the real ones.

        Raises:
            NotFiniteError: a tensor holds NaN or infinity, and the goal is not an exact pack.
            UsageError: the size cannot be met.
        """
        size = self._goal.size if size is None else size
        step = self._step(size)
        push = 0.001
        while True:
            packed = self._coded(step, checked=checked)
            if size is None or packed.size <= size:
                self._last = step
                return packed
            packed.payload.close()
            if not self._lossy or push > 1000:
                raise UsageError(
                    f"what must be kept at any quality takes {packed.size:,} bytes", hint="Ask for a larger size."
                )
            # The estimate that the search went by was a little too low.
            step *= 1 + max(push, 2 * (packed.size / size - 1))
            push *= 2

    def first_step(self) -> float:
        """The step of the quality that is asked for, or of the default one."""
        guess = self._first_guess(self._goal.size) if self._lossy else 1.0
        self._analyse(guess)
        return guess

    def coded_at(self, step: float, *, checked: bool = True) -> Packed:
        """Code the delta with a step of one's own choice.

        Args:
            step: for all tensors.
            checked: see `pack`.

        Raises:
            NotFiniteError: a tensor holds NaN or infinity.
        """
        if step < self._finest:
            self._analyse(step / _MARGIN)
        return self._coded(step, checked=checked)

    def ladder(self, smallest: int, largest: int, number: int) -> list[float]:
        """Steps in geometric progression, falling, whose packs take about so many bytes at either end.

        Tensors are analysed for the finest step, so that all of them can be coded. Sizes are those that singular values
        predict; what does not depend on the step is not counted.

        Args:
            smallest: bytes of the pack with the first step.
            largest: bytes of the pack with the last one.
            number: of steps.

        Raises:
            NotFiniteError: a tensor holds NaN or infinity.
            UsageError: all that changes comes back bit for bit.
        """
        if not self._lossy:
            raise UsageError("all that differs comes back bit for bit, at one size", hint="Leave out --sweep.")
        guess = self._first_guess(largest)
        if any(plan.is_matrix for plan in self._lossy):
            self._analyse(guess / _MARGIN)
            first, last = (max(self._finest, self._predicted(self._lossy, size)) for size in (smallest, largest))
        else:
            first, last = guess, guess / _FINER
            self._analyse(last)
        return [float(step) for step in np.geomspace(first, last, number)]

    @property
    def lossy(self) -> tuple[LossyPlan, ...]:
        """The plans of the tensors that are approximated."""
        return tuple(self._lossy)

    def weigh(self, sensitivity: Mapping[str, float]) -> None:
        """Code tensors the more finely the more errors in them matter; before anything else.

        Args:
            sensitivity: see `skillpack.packing.metric`; by the name of the tensor. Those left out are like the others
                on average.
        """
        weighed = {plan.change.name: plan for plan in self._lossy if plan.is_matrix and not plan.is_table}
        shares = fineness({name: sensitivity[name] for name in weighed if name in sensitivity})
        for name, share in shares.items():
            weighed[name].fineness = share

    def reach(self, keep: float) -> None:
        """Find out about all columns of linear layers that `keep` may ask for; before anything else.

        Args:
            keep: the least that will be asked for, see `LowRank`.
        """
        for plan in self._lossy:
            plan.reach = keep

    def keep(self, keep: float | None) -> None:
        """Keep columns of linear layers down to there.

        Args:
            keep: see `LowRank`, no less than `reach` was told; None for the usual.
        """
        for plan in self._lossy:
            plan.keep = keep
        self.recount()

    def recount(self) -> None:
        """Take notice that plans round something else now."""
        self._counted = None

    def restore(self) -> None:
        """Let all plans round what the delta has."""
        for plan in self._lossy:
            plan.restore()
        self.recount()

    def _step(self, size: int | None) -> float:
        """The step of a size, or of the goal, as far as estimates tell; close to the last one if there was one."""
        if size is None or not self._lossy:
            return self._last or self.first_step()
        start, finest, largest = self._last, self._finest, 0.0
        if start is None:
            finest = self._first_guess(size) / _MARGIN
        while True:
            if finest < self._finest:
                self._analyse(finest)
            start = start or self._predicted(self._lossy, size)
            try:
                return step_for_size(self._estimated_size, size, start, finest)
            except FinerStepNeededError:
                found = self._estimated_size(finest)
                if found <= largest:  # no codec goes any finer
                    return finest
                largest = found
                finest /= 4

    def _first_guess(self, size: int | None) -> float:
        """A step close to the one that gives so many bytes, or the quality that is asked for, from a few tensors."""
        matrices = [plan for plan in self._lossy if plan.is_matrix]
        if not matrices:
            self._analyse(math.inf)
            return max(limit for plan in self._lossy for _, _, limit in plan.analyses)
        # Where only the dtype differs the delta is zero, which says nothing about the others.
        for sample in (matrices[:: -(-len(matrices) // _SAMPLE)], matrices):
            for _ in self._analysed(sample, math.inf):
                pass
            scales = [plan.scale for plan in sample if plan.scale] or [1.0]
            if any(plan.scale for plan in sample):
                break
        if size is not None:
            return self._predicted(sample, size)
        quality = DEFAULT_QUALITY if self._goal.quality is None else self._goal.quality
        return statistics.median(scales) * _STEP_AT_NO_QUALITY * (1 - quality)

    def _predicted(self, plans: Sequence[LossyPlan], size: float) -> float:
        """The step at which these tensors take their share of the size, were singular vectors Gaussian."""
        share = sum(plan.elements for plan in plans) / max(1, sum(plan.elements for plan in self._lossy))
        target = 8 * size * share
        low, high = 2.0**-60, 2.0**60
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            bits = sum(plan.predicted_bits(middle) for plan in plans)
            low, high = (middle, high) if bits > target else (low, middle)
        return high

    def _analyse(self, finest: float) -> None:
        self._finest, self._counted = finest, None
        stage = Stage(self._progress, "analysing tensors", sum(plan.nbytes for plan in self._lossy))
        for plan in self._analysed(self._lossy, finest):
            stage.advance(plan.nbytes)

    def _analysed(self, plans: Sequence[LossyPlan], finest: float) -> Iterator[LossyPlan]:
        def analyse(plan: LossyPlan) -> LossyPlan:
            plan.analyse(finest, self._analyst)
            return plan

        return self._analyst.workers.for_each(analyse, plans, lambda plan: plan.elements)

    def _tables(self, step: float) -> Tables:
        """Count what all tensors take at a step, leaving each one's share in its job; the tables that suit them all."""
        if self._counted is not None and self._counted[0] == step:
            return self._counted[1]
        stage = Stage(self._progress, "counting symbols", sum(job.nbytes for job in self._jobs))
        total = Histogram()
        counts = self.threads.for_each(lambda job: _count(job, step), self._jobs, lambda job: job.elements)
        for job, counted in zip(self._jobs, counts, strict=True):
            job.parts = [part for part, _ in counted]
            for _, histogram in counted:
                total.merge(histogram)
            stage.advance(job.nbytes)
        self._counted = step, total.tables().extended(self._extras.tables)
        return self._counted[1]

    def _estimated_size(self, step: float) -> float:
        """Bytes of the whole skill at a step; a fraction of a percent off."""
        tables = self._tables(step)
        entries, blocks = [], {FILES: sum(len(coded) for _, coded in self._files)}
        for job in self._jobs:
            entry = self._entry(job.change, job.parts, _expected_quality(job))
            entries.append(entry)
            block = block_of(entry.name)
            blocks[block] = blocks.get(block, 0) + entry.nbytes
        return skill_size(self._manifest(entries, tables), blocks)

    def _coded(self, step: float, *, checked: bool) -> Packed:
        """Code everything at a step, and check that it decodes."""
        tables = self._tables(step)
        payload = Payload()
        try:
            return self._coded_into(payload, step, tables, checked=checked)
        except BaseException:
            payload.close()
            raise

    def _coded_into(self, payload: Payload, step: float, tables: Tables, *, checked: bool) -> Packed:
        stage = Stage(self._progress, "coding", sum(job.nbytes for job in self._jobs))
        entries, missed = [], 0.0
        checks = _Checks(self._analyst.unfinished, tables) if checked else None
        coded = self.threads.for_each(
            lambda job: self._code(job, step, tables, checks), self._jobs, lambda job: job.elements
        )
        for job, (parts, chunks, quality) in zip(self._jobs, coded, strict=True):
            entries.append(self._entry(job.change, parts, quality))
            missed += quality.missed
            for chunk in chunks:
                payload.add(block_of(job.change.name), chunk)
            stage.advance(job.nbytes)
        for _, content in self._files:
            payload.add(FILES, content)
        manifest = self._manifest(entries, tables)
        energy = sum(plan.energy for plan in self._lossy)
        error = math.sqrt(missed / energy) if energy else 0.0
        return Packed(manifest, payload, skill_size(manifest, payload.sizes()), step, error)

    def _code(
        self, job: _Job, step: float, tables: Tables, checks: _Checks | None
    ) -> tuple[list[Part], list[bytes], _Quality]:
        parts, streams, quality = [], [], _expected_quality(job) if checks is None else _Quality()
        for plan in job.plans:
            codec, encoding = plan.encode(step)
            chunks = [encode_chunk(chunk, tables) for chunk in encoding.chunks()]
            part = Part(codec, encoding.parameters, tuple(len(chunk) for chunk in chunks))
            parts.append(part)
            streams += chunks
            if checks is None:
                continue
            error = checks.error(job.change.name, plan, part, chunks)
            if isinstance(plan, LossyPlan):
                quality = _Quality(error, _whole(plan.least_bytes(error)), error**2 * plan.energy)
        return parts, streams, quality

    def _entry(self, change: Change, parts: Sequence[Part], quality: _Quality) -> TensorEntry:
        main, rows = [*parts, None, None][:2]
        return TensorEntry(
            name=change.name,
            dtype=change.dtype,
            shape=change.shape,
            reference=change.reference,
            reference_digest=None if change.reference is None else self._delta.base_digests[change.reference],
            common_rows=change.common_rows,
            same_as=change.same_as,
            main=main,
            rows=rows,
            error=float(f"{quality.error:.3g}"),
            bound=quality.bound,
        )

    def _manifest(self, entries: Sequence[TensorEntry], tables: Tables) -> Manifest:
        return Manifest(
            base_fingerprint=self._delta.base_fingerprint,
            tuned_fingerprint=self._delta.tuned_fingerprint,
            renaming=self._delta.renaming,
            gone=tuple((name, self._delta.base_digests[name]) for name in self._delta.gone),
            tensors=tuple(entries),
            files=tuple(
                CodedFile(change.path, change.kind, len(change.content), len(coded)) for change, coded in self._files
            ),
            tables=tables.to_json(),
            recipe=self._extras.recipe,
        )


def _count(job: _Job, step: float) -> list[tuple[Part, Histogram]]:
    counted = []
    for plan in job.plans:
        codec, encoding = plan.encode(step)
        histogram = count_all(encoding.chunks())
        counted.append((Part(codec, encoding.parameters, (math.ceil(histogram.size()),)), histogram))
    return counted


def _expected_quality(job: _Job) -> _Quality:
    """Figures that take about as much of a manifest as the real ones will."""
    if not any(isinstance(plan, LossyPlan) for plan in job.plans):
        return _Quality()
    return _Quality(0.1, _whole(0.6 * job.parts[0].nbytes))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _whole(nbytes: float) -> int | None:
    """Bytes to three digits; None for infinitely many."""
    return round(float(f"{nbytes:.3g}")) if math.isfinite(nbytes) else None
