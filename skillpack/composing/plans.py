"""How each tensor of a composed skill is written: streams kept, values kept bit for bit, or a delta coded anew."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skillpack.codecs import Raw, codec_named
from skillpack.codecs.exact import Exact
from skillpack.codecs.matrix import matrix_shape
from skillpack.codecs.protocol import Encoding, Layout
from skillpack.codecs.sum import Sum, Term
from skillpack.composing.protocol import parts_of
from skillpack.errors import SkillPackError
from skillpack.manifest import Part
from skillpack.packing.analysis import LOCAL
from skillpack.packing.planning import LossyPlan
from skillpack.packing.unfinished import Unfinished
from skillpack.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from skillpack.codecs.entropy import ChunkReader
    from skillpack.codecs.protocol import Analysis
    from skillpack.packing.analysis import Analyst
    from skillpack.tensors import Floats

_VERSION: Final = 1
"""Raised whenever an analysis of the same recipe comes out differently."""


@dataclass(frozen=True)
class KeptPlan:
    """Streams of a part that need no frequency tables, as they are."""

    part: Part
    stream: bytes

    def encode(self, step: float) -> tuple[str, Encoding]:
        """See `Plan`."""
        del step
        ends = np.cumsum([0, *self.part.sizes]).tolist()
        chunks = [self.stream[first:last] for first, last in pairwise(ends)]
        return self.part.codec, Encoding(dict(self.part.parameters), lambda: chunks)

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Compare the bytes."""
        if part.codec != self.part.codec or b"".join(reader.data for reader in readers) != self.stream:
            raise SkillPackError("a stream was not copied as it is; nothing was stored", hint="Please report this.")
        return 0.0


@dataclass(frozen=True)
class SumPlan:
    """A weighted sum of parts, whose streams are kept.

    Attributes:
        name: of the tensor, for messages.
        layout: of the tensor.
        terms: makes the terms.
        expected: makes the delta that must come out.
    """

    name: str
    layout: Layout
    terms: Callable[[], Sequence[Term]]
    expected: Callable[[], Floats]

    def encode(self, step: float) -> tuple[str, Encoding]:
        """See `Plan`."""
        del step
        return Sum.name, Sum().encode(self.terms())

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Decode and compare, bit for bit."""
        decoded = codec_named(part.codec).decode(part.parameters, readers, self.layout, None)
        if isinstance(decoded, Tensor) or not _same_bits(decoded, self.expected()):
            raise _differs(self.name)
        return 0.0


@dataclass(frozen=True)
class ValuePlan:
    """A tensor that is kept bit for bit.

    Attributes:
        name: of the tensor, for messages.
        operands: makes the base's tensor and the composed one, of one shape.
    """

    name: str
    operands: Callable[[], tuple[Tensor | None, Tensor]]

    def encode(self, step: float) -> tuple[str, Encoding]:
        """See `Plan`."""
        del step
        reference, value = self.operands()
        codec = Exact() if reference is not None and value.dtype in Exact.dtypes else Raw()
        return codec.name, codec.encode(reference, value)

    def check(self, part: Part, readers: Iterator[ChunkReader]) -> float:
        """Decode and compare, bit for bit."""
        reference, value = self.operands()
        layout = Layout(value.dtype, value.shape)
        decoded = codec_named(part.codec).decode(part.parameters, readers, layout, reference)
        if not isinstance(decoded, Tensor) or not np.array_equal(decoded.data, value.data):
            raise _differs(self.name)
        return 0.0


@dataclass
class ComposedPlan(LossyPlan):
    """A composed delta that is coded anew; its analysis is found again by the recipe, without composing.

    Attributes:
        recipe: digest of the recipe.
    """

    recipe: str = ""
    _seen: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def analyse(self, finest: float, analyst: Analyst = LOCAL) -> None:
        """See `LossyPlan`."""
        if not analyst.unfinished.kept:
            super().analyse(finest, analyst)
            return
        key, step = self._key(analyst.device), finest * self.fineness
        found = analyst.unfinished.find(key, step)
        if found is None:
            super().analyse(finest, replace(analyst, unfinished=Unfinished()))
            found = analyst.unfinished.keep(key, step, self._dumped())
        self._restore(found, analyst.device)

    def _spooled_delta(self) -> tuple[Floats, float, float]:
        found = super()._spooled_delta()
        self._seen = found[1:]
        return found

    def _dumped(self) -> list[dict[str, Any]]:
        """All that `analyse` found out, as fp32 arrays."""
        facts = np.array([self.energy, self.scale, *self._seen, self.is_product, self.entries is not None])
        extra = {} if self.entries is None else dict(self.entries)
        return [{"facts": facts.view(np.float32)}, *(dict(analysis) for _, analysis, _ in self.analyses), extra]

    def _restore(self, found: list[Analysis], device: str) -> None:
        first, *analyses, entries = found
        facts = np.array(first["facts"]).view(np.float64).tolist()
        self.energy, self.scale, mean_square, density, product, by_entries = facts
        self._seen = mean_square, density
        self._sources.clear()
        self._moved = None
        if product:
            self.analyses = [(self._low_rank, analyses[0], math.inf)]
        else:
            offers = self._offers(self._shape, mean_square, density, device)
            self.analyses = [
                (codec, analysis, limit) for (codec, _, limit), analysis in zip(offers, analyses, strict=True)
            ]
        self.entries = entries if by_entries else None

    @property
    def is_product(self) -> bool:
        """Whether the delta was analysed as a product of factors."""
        return self._seen == (0.0, 0.0) and bool(self.energy)

    @property
    def _shape(self) -> tuple[int, ...]:
        return matrix_shape(self.change.shape)

    def _key(self, device: str) -> str:
        import torch

        kind = device.partition(":")[0]
        model = torch.cuda.get_device_name(device) if kind == "cuda" and torch.cuda.is_available() else kind
        about = [_VERSION, self.recipe, self.change.name, self.fineness, model, torch.__version__]
        about.append(torch.backends.cpu.get_cpu_capability())
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def usual_step(part: Part) -> float | None:
    """The quantisation step that a part was coded with; None if it has none, or none that is known."""
    parameters = part.parameters
    if part.codec in {"direct", "sparse"}:
        return float(parameters["step"])
    if part.codec == "lowrank":
        return _lowrank_step(parameters)
    if part.codec == "lowrank+direct":
        return float(parameters["rest"]["step"])
    if part.codec == "sum":
        steps = [_term_step(term) for term in parameters["terms"]]
        known = [step for step in steps if step]
        return math.sqrt(sum(step**2 for step in known) / len(known)) if known else None
    return None


def _term_step(term: Any) -> float | None:
    step = usual_step(Part(term["codec"], term["parameters"], ()))
    return None if step is None else abs(term["weight"]) * step


def _lowrank_step(parameters: Any) -> float | None:
    """The inverse of how the codec makes its outer scale: step * 2**(-top / 2) / 2**8, and / 32**2 if dithered."""
    if not parameters["columns"]:
        return None
    units = 32**2 if "dither" in parameters else 1
    return float(parameters["outer"]) * units * 2.0**8 * 2.0 ** (parameters["top"] / 2)


def _same_bits(one: Floats, other: Floats) -> bool:
    """Whether two arrays are equal, NaN included; piece by piece, so that large ones need no third."""
    if one.shape != other.shape:
        return False
    pairs = zip(parts_of(one), parts_of(other), strict=True)
    return all(np.array_equal(left, right, equal_nan=True) for left, right in pairs)


def _differs(name: str) -> SkillPackError:
    return SkillPackError(
        f"tensor {name} did not decode to the same bits; nothing was stored",
        hint="Please report this with the tensor.",
    )
