"""What goes into an adapter's folder, tensor by tensor, and what cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from skillpack.errors import UsageError
from skillpack.interop.updates import Limit, Product, decomposed, delta_of, known_product, missed, truncated
from skillpack.packing.spool import spooled
from skillpack.tensors import DTYPE_BYTES, FLOAT_DTYPES, Floats, Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.checkpoint import Checkpoint
    from skillpack.installing.claims import Active, Target
    from skillpack.interop.structure import Place, Structure
    from skillpack.manifest import TensorEntry

_FEW_ROWS: Final = 0.05
"""Embeddings of which at most this share of the rows changes are written row by row."""


class Rules(NamedTuple):
    """What a reader of adapters takes.

    Attributes:
        name: of the reader, for messages.
        whole: modules may be replaced as a whole, rows of embeddings and biases too.
        convolutions: may have factors.
        tied: the factors of a tied weight count at each of its places.
        max_rank: of any module; None for any.
        one_rank: all modules have the same.
    """

    name: str
    whole: bool
    convolutions: bool
    tied: bool
    max_rank: int | None
    one_rank: bool


class Lora(NamedTuple):
    """Factors of one module, as the file has them.

    Attributes:
        down: A, [rank, in].
        up: B, [out, rank].
        alpha: see `skillpack.codecs.factors.LoraFactors`; so is `rooted`.
        rooted: see `alpha`.
        place: of the weight.
    """

    down: Tensor
    up: Tensor
    alpha: float
    rooted: bool
    place: Place

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.down.shape[0]


class ExportedTensor(NamedTuple):
    """A tensor that an adapter carries.

    Attributes:
        name: as an install writes it.
        how: "factors", "truncated" (factors that leave something out), "whole", "rows" or "bias".
        rank: of the factors; 0 for the others.
        error: Frobenius norm of what was left out, relative to that of what the skill adds.
    """

    name: str
    how: str
    rank: int
    error: float


class LostTensor(NamedTuple):
    """A tensor or a file that the skill changes and the adapter does not.

    Attributes:
        name: as an install writes it.
        reason: why.
    """

    name: str
    reason: str


@dataclass
class Draft:
    """The content of an adapter.

    Attributes:
        loras: module -> its factors.
        saved: modules that are replaced as a whole.
        biases: module and attribute -> installed tensor.
        rows: module of an embedding -> numbers of its trained rows, and their values.
        tensors: what is carried, sorted.
        lost: what is not.
    """

    loras: dict[str, Lora] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    biases: dict[tuple[str, str], str] = field(default_factory=dict)
    rows: dict[str, tuple[list[int], Tensor]] = field(default_factory=dict)
    tensors: list[ExportedTensor] = field(default_factory=list)
    lost: list[LostTensor] = field(default_factory=list)


class Drafter:
    """Decides how each tensor of a skill is written."""

    def __init__(
        self,
        active: Active,
        base: Checkpoint,
        targets: Mapping[str, Target],
        structure: Structure,
        *,
        rules: Rules,
        limit: Limit,
        dtype: str | None,
    ) -> None:
        """Prepare.

        Args:
            active: the skill and its weight.
            base: the base.
            targets: installed tensor -> what is to be computed.
            structure: of the live model.
            rules: of the reader.
            limit: how much of each delta to keep.
            dtype: safetensors name of the factors' dtype; None for an adapter's own, else F32.
        """
        self._active, self._base, self._targets = active, base, targets
        self._structure, self._rules, self._limit, self._dtype = structure, rules, limit, dtype
        self._entries = {entry.name: entry for entry in active.skill.manifest.tensors}
        self.draft = Draft()

    def add(self, name: str) -> None:
        """Decide about one installed tensor.

        Raises:
            DamagedSkillError: the coded streams make no sense.
            UsageError: factors do not fit the dtype.
        """
        entry, places = self._entries[name], self._structure.places.get(name, ())
        reason = self._misfit(entry, places)
        if reason is not None:
            self._lose(name, reason)
        elif self._is_update(entry) and all(self._takes_factors(place) for place in places):
            self._add_update(name, entry, places)
        elif self._rules.whole and self._is_update(entry) and all(place.attribute == "bias" for place in places):
            self.draft.biases.update({(place.module, place.attribute): name for place in places})
            self._keep(name, "bias")
        else:
            self._save(name, places)

    def _misfit(self, entry: TensorEntry, places: tuple[Place, ...]) -> str | None:
        if not places:
            return f"a live {self._structure.model_class} has no tensor of this name"
        if any(place.shape != entry.shape for place in places):
            return f"a live {self._structure.model_class} has it with another shape"
        if entry.common_rows is not None:
            return "it has more or fewer rows than the base's, which has to be resized first"
        if len(places) > 1 and not self._rules.tied:
            return f"it is the embedding and the output head at once, which {self._rules.name} adapts only apart"
        return None

    def _is_update(self, entry: TensorEntry) -> bool:
        reference = None if entry.reference is None else self._base.tensors[entry.reference]
        return reference is not None and {reference.dtype, entry.dtype} <= FLOAT_DTYPES

    def _takes_factors(self, place: Place) -> bool:
        kinds = {"linear", "turned linear", "embedding"} | ({"convolution"} if self._rules.convolutions else set())
        return place.attribute == "weight" and place.kind in kinds

    def _add_update(self, name: str, entry: TensorEntry, places: tuple[Place, ...]) -> None:
        coded = self._entries.get(entry.same_as or name)
        shape = entry.shape[0], math.prod(entry.shape[1:])
        found = None
        if coded is not None and coded.reference == entry.reference:
            found = known_product(self._active.skill, coded, shape)
        if found is not None:
            self._add_product(name, truncated(found, self._capped()), places)
            return
        delta = self._delta(name, coded).reshape(shape)
        if self._add_rows(name, delta, places):
            return
        product = decomposed(delta, self._capped())
        size = product.rank * sum(shape) * DTYPE_BYTES[self._dtype or "F32"]
        chosen = self._limit.rank is not None or self._limit.energy is not None
        if self._rules.whole and not chosen and size >= math.prod(shape) * DTYPE_BYTES[entry.dtype]:
            self._save(name, places)
        else:
            self._add_product(name, product, places)

    def _capped(self) -> Limit:
        ranks = [rank for rank in (self._limit.rank, self._rules.max_rank) if rank is not None]
        return Limit(min(ranks, default=None), self._limit.energy)

    def _delta(self, name: str, coded: TensorEntry | None) -> Floats:
        """What the skill adds at weight 1."""
        target = self._targets[name]
        assert target.reference is not None
        reference = self._base.read(target.reference)
        if coded is not None and coded.reference == target.reference:
            return delta_of(self._active.skill, coded, reference)
        return (target.compute(self._base).float32() - reference.float32()) / np.float32(self._active.weight)

    def _add_rows(self, name: str, delta: Floats, places: tuple[Place, ...]) -> bool:
        changed = np.flatnonzero(delta.any(axis=1)).tolist()
        is_table = places[0].kind == "embedding" and self._rules.whole
        if not is_table or not 0 < len(changed) <= _FEW_ROWS * len(delta):
            return False
        whole = self._targets[name].compute(self._base)
        bits = np.ascontiguousarray(whole.bits()[changed])
        rows = Tensor(whole.dtype, (len(changed), *whole.shape[1:]), bits.reshape(-1).view(np.uint8))
        # peft ties the head's rows to the embedding's itself.
        self.draft.rows[places[0].module] = (changed, rows)
        self._keep(name, "rows")
        return True

    def _add_product(self, name: str, product: Product, places: tuple[Place, ...]) -> None:
        if not product.rank:
            return
        error = product.error
        for place in places:
            lora, rounding = self._factors(name, product, place)
            self.draft.loras[place.module] = lora
            error = math.hypot(product.error, rounding)
        self._keep(name, "truncated" if product.error else "factors", product.rank, error)

    def _factors(self, name: str, product: Product, place: Place) -> tuple[Lora, float]:
        """Factors as they are written, and the relative error of casting them."""
        stored, weight = product.stored, self._active.weight
        turned = place.kind in {"embedding", "turned linear"}
        if stored is not None and stored.turned == turned and self._dtype in {None, stored.down.dtype}:
            return Lora(stored.down, stored.up, stored.alpha * weight, stored.rooted, place), 0.0
        left, right = product.left, product.right
        if turned:
            left, right = right.T, left.T
        dtype = self._dtype or "F32"
        up, down = self._cast(name, left * weight, dtype), self._cast(name, right, dtype)
        lora = Lora(down, up, product.rank, rooted=False, place=place)
        if dtype == "F32":
            return lora, 0.0
        found = Product(up.float32().astype(np.float64), down.float32().astype(np.float64))
        return lora, missed(found, Product(left * weight, right))

    def _cast(self, name: str, values: np.typing.NDArray[np.float64], dtype: str) -> Tensor:
        with np.errstate(over="ignore"):
            cast = Tensor.from_float32(values.astype(np.float32), dtype)
        if not np.isfinite(cast.float32()).all():
            raise UsageError(f"the factors of {name} are too large for {dtype}", hint="Choose float32 or bfloat16.")
        data = spooled((cast.nbytes,), np.uint8)
        data[:] = cast.data
        return Tensor(dtype, cast.shape, data)

    def _save(self, name: str, places: tuple[Place, ...]) -> None:
        if not self._rules.whole:
            self._lose(name, f"{self._rules.name} takes factors of linear layers and embeddings only")
        elif not all(place.is_leaf for place in places):
            self._lose(name, "its module holds other modules, so it cannot be replaced as a whole")
        else:
            self.draft.saved.update(place.module for place in places)
            self._keep(name, "whole")

    def _keep(self, name: str, how: str, rank: int = 0, error: float = 0.0) -> None:
        self.draft.tensors.append(ExportedTensor(name, how, rank, error))

    def _lose(self, name: str, reason: str) -> None:
        self.draft.lost.append(LostTensor(name, reason))
