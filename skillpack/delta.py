"""What changed between a base and its fine-tune: tensors, their names, and the files beside them.

Tensors are matched by name, by a prefix that one of the two adds to all names, and through tied weights. Nothing is
left out: what is not listed is byte for byte the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from skillpack.companions import difference
from skillpack.errors import CheckpointError, listing
from skillpack.fingerprint import fingerprint, tensor_digests
from skillpack.tensors import FLOAT_DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from skillpack.checkpoint import Checkpoint, TensorInfo
    from skillpack.companions import FileChange
    from skillpack.tensors import Tensor

# Module names under which models keep the matrix that input embedding and output head share when they are tied.
_EMBEDDING: Final = re.compile(
    r"(.*\.)?(embed_tokens|wte|word_embeddings|shared|tok_embeddings|embed_in|embeddings|token_embedding)\.weight"
)
_HEAD: Final = re.compile(r"(.*\.)?(lm_head|embed_out|proj_out|output|lm_head\.decoder|predictions\.decoder)\.weight")
_SAMPLE: Final = 64


class Renaming(NamedTuple):
    """The one rule that takes base names to tuned names: a name that starts with `strip` starts with `add` instead.

    >>> Renaming("", "bert.").apply("embeddings.LayerNorm.bias")
    'bert.embeddings.LayerNorm.bias'
    """

    strip: str = ""
    add: str = ""

    def apply(self, name: str) -> str:
        """The tuned name for a base name; a name without the prefix stays."""
        return self.add + name[len(self.strip) :] if name.startswith(self.strip) else name


@dataclass(frozen=True)
class Change:
    """One tensor of the tuned model that is not byte for byte its namesake in the base.

    Attributes:
        name: as tuned has it and as an install writes it.
        dtype: likewise.
        shape: likewise.
        reference: the base tensor that it is relative to; None when only tuned has it.
        common_rows: None when it has the reference's shape. Otherwise the shapes differ in dimension 0 only: rows
            [0, common_rows) are relative to the reference's and tuned's other rows, if any, are new.
        same_as: another tuned tensor with the same dtype, shape and bytes and an equal reference, so that one of the
            two need be stored. It may be one that did not change, which has no `Change` of its own.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    reference: str | None = None
    common_rows: int | None = None
    same_as: str | None = None


@dataclass(frozen=True, eq=False)
class Delta:
    """The whole difference between two checkpoints.

    Attributes:
        base: the base.
        tuned: the fine-tune.
        changes: what differs, sorted by name.
        gone: base tensors that tuned does not have, sorted.
        renaming: base name -> tuned name for all matched tensors, changed or not.
        base_digests: base name -> digest, of every tensor.
        tuned_digests: tuned name -> digest, of every tensor.
        files: changes to tokenizer, template and config files.
        code_files: tuned's ``.py`` files, which are reported and not carried.
    """

    base: Checkpoint
    tuned: Checkpoint
    changes: tuple[Change, ...]
    gone: tuple[str, ...]
    renaming: Renaming
    base_digests: Mapping[str, str]
    tuned_digests: Mapping[str, str]
    files: tuple[FileChange, ...]
    code_files: tuple[str, ...]

    @property
    def base_fingerprint(self) -> str:
        """Of the whole base."""
        return fingerprint(self.base_digests)

    @property
    def tuned_fingerprint(self) -> str:
        """Of the whole fine-tune."""
        return fingerprint(self.tuned_digests)

    def pair(self, change: Change) -> tuple[Tensor | None, Tensor]:
        """Reference (whole, of its own shape and dtype; None without one) and tuned tensor of a change."""
        reference = None if change.reference is None else self.base.read(change.reference)
        return reference, self.tuned.read(change.name)


def find_delta(base: Checkpoint, tuned: Checkpoint, *, progress: Callable[[int], None] | None = None) -> Delta:
    """Compare two checkpoints, reading every tensor once.

    Args:
        base: the base.
        tuned: the fine-tune.
        progress: called with bytes as they are read; they sum up to both models' sizes.

    Raises:
        CheckpointError: the two have no tensor in common, could be matched in more than one way, or a tensor's shapes
            differ in more than the first dimension.
    """
    renaming = find_renaming(base.tensors, tuned.tensors)
    matches = _matches(base, renaming)
    _check_shapes(base, tuned, matches)
    base_digests = tensor_digests(base, progress=progress)
    tuned_digests = _tuned_digests(tuned, base_digests, progress)
    references = {name: _reference(name, base, tuned, matches, base_digests) for name in tuned.tensors}
    changed = [name for name in tuned.tensors if base_digests.get(matches.get(name, "")) != tuned_digests[name]]
    originals = _originals(changed, references, base_digests, tuned_digests)
    return Delta(
        base=base,
        tuned=tuned,
        changes=tuple(_change(tuned.tensors[name], references[name], base, originals.get(name)) for name in changed),
        gone=tuple(sorted(name for tuned_name, name in matches.items() if tuned_name not in tuned.tensors)),
        renaming=renaming,
        base_digests=base_digests,
        tuned_digests=tuned_digests,
        files=tuple(difference(base.companions, tuned.companions)),
        code_files=tuned.code_files,
    )


def is_embedding(name: str) -> bool:
    """Whether a tensor has the name of an input embedding, which an output head may be tied to."""
    return _EMBEDDING.fullmatch(name) is not None


def is_head(name: str) -> bool:
    """Whether a tensor has the name of an output head."""
    return _HEAD.fullmatch(name) is not None


def find_renaming(base: Mapping[str, object], tuned: Mapping[str, object]) -> Renaming:
    """The rule that takes most base names to tuned names: none at all where the names agree, else a prefix.

    Args:
        base: mapping whose keys are the base's names.
        tuned: the same for tuned.

    Raises:
        CheckpointError: no rule matches any tensor, or two rules match equally many.

    >>> find_renaming(dict.fromkeys(["embeddings.w", "pooler.w"]), dict.fromkeys(["bert.embeddings.w", "cls.w"]))
    Renaming(strip='', add='bert.')
    """
    rules = {Renaming(): sum(name in tuned for name in base)}
    if 2 * rules[Renaming()] >= min(len(base), len(tuned)) > 0:
        return Renaming()
    for rule in _prefix_rules(base, tuned):
        if rule not in rules:
            rules[rule] = sum(rule.apply(name) in tuned for name in base)
    most = max(rules.values())
    best = [rule for rule, matched in rules.items() if matched == most]
    # A prefix is a guess that has to explain most of the smaller model.
    if not most or (best[0] != Renaming() and 2 * most < min(len(base), len(tuned))):
        raise CheckpointError(
            "The two models have hardly a tensor name in common",
            hint="Check that the fine-tune was started from this base.",
        )
    if best[0] != Renaming() and len(best) > 1:
        raise CheckpointError(f"Tensor names match equally well in two ways: {best[0]} and {best[1]}")
    return best[0]


def is_shared_matrix(name: str) -> bool:
    """Whether a tensor has a name of the matrix that input embedding and output head share when they are tied.

    >>> is_shared_matrix("lm_head.weight"), is_shared_matrix("model.layers.0.mlp.up_proj.weight")
    (True, False)
    """
    return bool(_EMBEDDING.fullmatch(name) or _HEAD.fullmatch(name))


def _prefix_rules(base: Iterable[str], tuned: Iterable[str]) -> Iterator[Renaming]:
    """Rules suggested by names of one model that end like a name of the other."""
    base_names, tuned_names = set(base), set(tuned)
    by_end: dict[str, list[str]] = {}
    for name in base_names:
        for _, end in _splits(name):
            by_end.setdefault(end, []).append(name)
    for name in islice(_spread(sorted(tuned_names - base_names)), _SAMPLE):
        # The longest common end says most; only a name that is unique down there suggests a rule.
        for add, end in _splits(name):
            ending = by_end.get(end, [])
            if len(ending) == 1:
                yield Renaming(ending[0].removesuffix(end), add)
            if ending:
                break


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Every way to cut a name after a dot, the longest end first: ("", "a.b"), ("a.", "b")."""
    yield "", name
    for match in re.finditer(r"\.", name):
        yield name[: match.end()], name[match.end() :]


def _spread(names: list[str]) -> Iterator[str]:
    step = max(1, len(names) // _SAMPLE)
    yield from names[::step]


def _matches(base: Checkpoint, renaming: Renaming) -> dict[str, str]:
    """Name that tuned would have for it -> base name, of every base tensor."""
    matches = {renaming.apply(name): name for name in base.tensors}
    if len(matches) < len(base.tensors):
        raise CheckpointError(f"Two tensors of the base would get one name when {renaming} takes them to tuned's names")
    return matches


def _check_shapes(base: Checkpoint, tuned: Checkpoint, matches: Mapping[str, str]) -> None:
    wrong = [
        f"{name} {list(base.tensors[matches[name]].shape)} -> {list(info.shape)}"
        for name, info in tuned.tensors.items()
        if name in matches and not _rows_fit(base.tensors[matches[name]], info)
    ]
    if wrong:
        raise CheckpointError(
            f"Shapes differ in more than the number of rows: {listing(wrong)}",
            hint="Check that the fine-tune was started from this base.",
        )


def _rows_fit(base: TensorInfo, tuned: TensorInfo) -> bool:
    """Whether shapes are the same, or the same but for dimension 0."""
    return len(base.shape) == len(tuned.shape) and base.shape[1:] == tuned.shape[1:]


def _tuned_digests(
    tuned: Checkpoint, base_digests: Mapping[str, str], progress: Callable[[int], None] | None
) -> dict[str, str]:
    inherited = {name: tuned.inherits(name) for name in tuned.tensors}
    digests = {name: base_digests[origin] for name, origin in inherited.items() if origin is not None}
    if progress is not None:
        progress(sum(tuned.tensors[name].nbytes for name in digests))
    digests |= tensor_digests(tuned, (name for name, origin in inherited.items() if origin is None), progress=progress)
    return {name: digests[name] for name in tuned.tensors}


def _reference(
    name: str, base: Checkpoint, tuned: Checkpoint, matches: Mapping[str, str], base_digests: Mapping[str, str]
) -> str | None:
    """The base tensor that a tuned tensor is relative to: its namesake, else the one it was tied to in the base."""
    info = tuned.tensors[name]
    if name in matches:
        reference = base.tensors[matches[name]]
        subtractable = reference.dtype == info.dtype or {reference.dtype, info.dtype} <= FLOAT_DTYPES
        return reference.name if subtractable else None
    if not is_shared_matrix(name) or info.dtype not in FLOAT_DTYPES:
        return None
    tied = [
        other.name
        for other in base.tensors.values()
        if is_shared_matrix(other.name)
        and len(info.shape) == 2
        and _rows_fit(other, info)
        and other.dtype in FLOAT_DTYPES
    ]
    return tied[0] if len({(base_digests[other]) for other in tied}) == 1 else None


def _originals(
    changed: Iterable[str],
    references: Mapping[str, str | None],
    base_digests: Mapping[str, str],
    tuned_digests: Mapping[str, str],
) -> dict[str, str]:
    """Changed tensor -> the tuned tensor with the same bytes that stands for it.

    The references must be equal as well: at a weight other than 1 each tensor is its own reference plus a part of the
    difference, and only then do the two stay the same.
    """

    def meaning(name: str) -> tuple[str, str | None]:
        reference = references[name]
        return tuned_digests[name], None if reference is None else base_digests[reference]

    changing = set(changed)
    groups: dict[tuple[str, str | None], list[str]] = {}
    for name in tuned_digests:
        groups.setdefault(meaning(name), []).append(name)
    originals = {}
    for group in groups.values():
        # An unchanged tensor costs nothing, and an embedding is what a head is tied to.
        first = min(group, key=lambda name: (name in changing, not _EMBEDDING.fullmatch(name), name))
        originals.update({name: first for name in group if name in changing and name != first})
    return originals


def _change(info: TensorInfo, reference: str | None, base: Checkpoint, same_as: str | None) -> Change:
    common_rows = None
    if reference is not None and base.tensors[reference].shape != info.shape:
        common_rows = min(base.tensors[reference].shape[0], info.shape[0])
    return Change(info.name, info.dtype, info.shape, reference, common_rows, same_as)
