"""The tensors of a skill by kind of module: q_proj, embed_tokens, norms, a new head."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from skillpack.codecs import LowRank, Tucker
from skillpack.codecs.factors import AdapterFactors
from skillpack.codecs.lowrank import rank
from skillpack.codecs.tucker import ranks
from skillpack.errors import DamagedSkillError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skillpack.manifest import Part, TensorEntry

NORMS: Final = "norms"
_NORM: Final = re.compile(r"norm|^ln(_|$)", re.IGNORECASE)
_PARAMETERS: Final = {"weight", "bias"}


class Range(NamedTuple):
    """Least and largest of some numbers."""

    low: float
    high: float


@dataclass(frozen=True)
class Kind:
    """Tensors of one kind, or a single one.

    Attributes:
        name: of the kind or of the tensor.
        tensors: how many.
        nbytes: their coded bytes, without side information in the manifest.
        elements: how many numbers were coded.
        codecs: names, sorted.
        ranks: of low-rank parts, and along each axis of Tucker parts; None where there are no such parts.
        errors: relative Frobenius error of the tensors' deltas; 0 if lossless.
        bound: least bytes that any code needs for what is approximated, see `TensorEntry.bound`; None if not known.
        bounded_bytes: coded bytes of what the bound is about.
    """

    name: str
    tensors: int
    nbytes: int
    elements: int
    codecs: tuple[str, ...]
    ranks: Range | None
    errors: Range
    bound: int | None
    bounded_bytes: int

    @property
    def over_bound(self) -> float | None:
        """How many times the bound the coded bytes are; None where there is no bound, or where it is zero."""
        return self.bounded_bytes / self.bound if self.bound else None

    @property
    def bits_per_weight(self) -> float:
        """Coded bits for each number; 0 where nothing was coded."""
        return 8 * self.nbytes / self.elements if self.elements else 0.0

    @classmethod
    def of(cls, name: str, entries: Sequence[TensorEntry]) -> Kind:
        """Sum up tensors.

        Raises:
            DamagedSkillError: a low-rank or Tucker part does not say its rank.
        """
        parts = [part for entry in entries for part in entry.parts]
        found = [rank for part in parts for rank in _ranks(part, name)]
        bounds = [entry.bound for entry in entries if entry.bound is not None]
        return cls(
            name=name,
            tensors=len(entries),
            nbytes=sum(entry.nbytes for entry in entries),
            elements=sum(math.prod(entry.shape) for entry in entries if entry.same_as is None),
            codecs=tuple(sorted({part.codec for part in parts} | {"tied" for entry in entries if entry.same_as})),
            ranks=Range(min(found), max(found)) if found else None,
            errors=Range(min(entry.error for entry in entries), max(entry.error for entry in entries)),
            bound=sum(bounds) if bounds else None,
            bounded_bytes=sum(entry.bounded_bytes for entry in entries),
        )


def by_kind(entries: Iterable[TensorEntry]) -> list[Kind]:
    """The tensors of a skill by kind, the kind with most bytes first.

    A kind is named like the module, by the last parts of its name that no other kind shares, without numbers of
    blocks; all norms are one kind, and tensors that only the fine-tune has are new.
    """
    groups: dict[tuple[tuple[str, ...], bool], list[TensorEntry]] = defaultdict(list)
    for entry in entries:
        groups[module_path(entry.name), entry.reference is None].append(entry)
    labels = _labels({path for path, _ in groups})
    kinds = [Kind.of(labels[path] + (" (new)" if new else ""), group) for (path, new), group in groups.items()]
    return sorted(kinds, key=lambda kind: (-kind.nbytes, kind.name))


def module_path(name: str) -> tuple[str, ...]:
    """The module that a tensor belongs to, without numbers.

    >>> module_path("model.layers.3.self_attn.q_proj.weight"), module_path("bert.encoder.layer.0.output.LayerNorm.bias")
    (('model', 'layers', 'self_attn', 'q_proj'), ('norms',))
    """
    parts = [part for part in re.split(r"[./]", name) if not part.isdigit()]
    if len(parts) > 1 and parts[-1] in _PARAMETERS:
        parts.pop()
    return (NORMS,) if parts and _NORM.search(parts[-1]) else tuple(parts)


def kind_names(tensors: Iterable[str]) -> dict[str, str]:
    """The kind of each tensor, named as by `by_kind`.

    >>> kind_names(["layers.0.mlp.up.weight", "layers.1.mlp.up.weight", "layers.1.shared.up.weight"]).values()
    dict_values(['mlp.up', 'mlp.up', 'shared.up'])
    """
    paths = {name: module_path(name) for name in tensors}
    labels = _labels(set(paths.values()))
    return {name: labels[path] for name, path in paths.items()}


def _labels(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The shortest end of each path that no other path has."""
    paths = list(paths)
    ends = Counter(path[start:] for path in paths for start in range(len(path)))
    labels = {}
    for path in paths:
        unique = (path[start:] for start in range(len(path) - 1, -1, -1) if ends[path[start:]] == 1)
        labels[path] = ".".join(next(unique, path))
    return labels


def _ranks(part: Part, name: str) -> tuple[int, ...]:
    try:
        if part.codec == Tucker.name:
            return ranks(part.parameters) or (0,)
        if part.codec == AdapterFactors.name:
            return (int(part.parameters["rank"]),)
        return (rank(part.parameters),) if part.codec == LowRank.name else ()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedSkillError(f"a {part.codec} part of {name} does not say its rank") from error
