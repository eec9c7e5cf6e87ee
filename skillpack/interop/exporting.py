"""Writing a skill as the folder of an adapter that PEFT or vLLM loads."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import SkillPackError, UsageError, listing
from skillpack.fingerprint import tensor_digests
from skillpack.installing.claims import Active, check_base, common_renaming, find_targets, gone_tensors
from skillpack.installing.os_errors import explained
from skillpack.interop.adapter_folder import CONFIG, WEIGHTS, adapter_config, adapter_tensors, dump, with_one_rank
from skillpack.interop.drafting import Drafter, Lora, LostTensor, Rules
from skillpack.interop.structure import find_structure, installed_file
from skillpack.interop.updates import Limit
from skillpack.library import parse_weight
from skillpack.model_card import base_name
from skillpack.progress import Progress, Stage, silent
from skillpack.safetensors_file import write_safetensors
from skillpack.signing.checking import require_trusted
from skillpack.skill import open_skill
from skillpack.summaries import SkillSummary, label_of, open_existing, summary_of
from skillpack.summing import check_weight
from skillpack.tensors import Tensor
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.checkpoint import Checkpoint
    from skillpack.installing.claims import Target
    from skillpack.interop.drafting import Draft, ExportedTensor
    from skillpack.interop.structure import Structure
    from skillpack.summaries import StoreLike

AdapterFormat = Literal["peft", "vllm"]
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank``."""
_RULES: Final = {
    "peft": Rules("PEFT", whole=True, convolutions=True, tied=True, max_rank=None, one_rank=False),
    "vllm": Rules("vLLM", whole=False, convolutions=False, tied=False, max_rank=VLLM_RANKS[-1], one_rank=True),
}
DTYPES: Final = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_TOKENIZER: Final = frozenset({"vocab.txt", "merges.txt", "vocab.json", "special_tokens_map.json", "added_tokens.json"})


@dataclass(frozen=True)
class AdapterExport:
    """An adapter that was written.

    Attributes:
        folder: with the adapter.
        skill: what it was made of.
        format: who is to load it.
        rank: the largest of any module; 0 without factors.
        tensors: what is carried, sorted by name.
        lost: what is not, tensors and files.
        nbytes: bytes of the weight file.
    """

    folder: Path
    skill: SkillSummary
    format: AdapterFormat
    rank: int
    tensors: tuple[ExportedTensor, ...]
    lost: tuple[LostTensor, ...]
    nbytes: int

    @property
    def error(self) -> float:
        """The largest relative error of a tensor that is carried."""
        return max((tensor.error for tensor in self.tensors), default=0.0)

    @property
    def vllm_rank(self) -> int:
        """What vLLM has to be told as ``--max-lora-rank``."""
        return next((rank for rank in VLLM_RANKS if rank >= self.rank), VLLM_RANKS[-1])


def export_adapter(
    address: str,
    folder: str | Path,
    base: str | Path,
    *,
    format: AdapterFormat = "peft",  # noqa: A002 - the option's name
    rank: int | None = None,
    energy: float | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    strict: bool = False,
    store: StoreLike = None,
    branch: str = "main",
    progress: Progress = silent,
) -> AdapterExport:
    """Write a skill as a LoRA adapter.

    Factors of tensors that are coded as such are written as they are. Other deltas of matrices are decomposed, and
    what is no matrix is written whole where the reader takes that (`modules_to_save`).

    Args:
        address: of the skill, with a weight if it is not 1: ``math``, ``math@3=0.7``.
        folder: new folder for the adapter.
        base: model folder or Hub id that the skill was packed from.
        format: "peft", or "vllm" for what vLLM loads: factors of one rank only.
        rank: at most so many directions for each matrix.
        energy: share of the squared norm of each delta that is kept; where the factors are not known already 0.9999.
        dtype: of the factors; by default that of the adapter that the skill was imported from, else float32.
        strict: raise rather than leave anything out.
        store: where the skill is.
        branch: branch of the library.
        progress: called during the work.

    Raises:
        UsageError: the folder is not empty, nothing of the skill can be written, or an argument is out of range.
        SkillPackError: something would be lost, and `strict` is set.
        WrongBaseError: it is another base.
        NotFoundError: there is no such skill.
        NotTrustedError: the policy requires a signature and none counts.
        CheckpointError: transformers cannot tell the base's modules.
    """
    limit = _limit(rank, energy)
    target = new_place(folder)
    active, summary = open_active(address, store, branch)
    checkpoint = open_checkpoint(base)
    _check(active, checkpoint)
    order = _order(active, checkpoint)
    rules, factors = _RULES[format], None if dtype is None else DTYPES[dtype]
    drafter = Drafter(active, checkpoint, order.targets, order.structure, rules=rules, limit=limit, dtype=factors)
    stage = Stage(progress, "converting tensors", sum(target.working_bytes for target in order.targets.values()))
    for name, wanted in order.targets.items():
        drafter.add(name)
        stage.advance(wanted.working_bytes)
    draft = _finished(drafter.draft, order, rules)
    draft.lost += _lost_files(active)
    _refuse(draft, summary, strict=strict)
    with explained(target.parent):
        nbytes = _write(target, draft, order, summary)
    return AdapterExport(
        folder=target,
        skill=summary,
        format=format,
        rank=max((tensor.rank for tensor in draft.tensors), default=0),
        tensors=tuple(sorted(draft.tensors)),
        lost=tuple(sorted(draft.lost)),
        nbytes=nbytes,
    )


def new_place(folder: str | Path) -> Path:
    """Where a new folder is to be.

    Raises:
        UsageError: something is there already.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder", hint="Choose another name for the new folder.")
    return target


def open_active(address: str, store: StoreLike, branch: str) -> tuple[Active, SkillSummary]:
    """The skill of an address, if it is trusted, with the weight that the address gives it.

    Raises:
        NotFoundError, NotTrustedError, UsageError: see `export_adapter`.
    """
    repository = open_existing(store)
    name, weight = parse_weight(address)
    found = repository.resolve(name, branch)
    require_trusted(repository, found.descriptor.digest, found.name)
    skill = open_skill(repository, found.descriptor.digest, found.name)
    return Active(skill, check_weight(found.name, weight), label_of(found)), summary_of(repository, found, branch)


@contextlib.contextmanager
def built_beside(target: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name `target` once it is complete and is removed if it does not get so far."""
    room = target.with_name(f".{target.name}.skillpack-tmp")
    disk.make_directory(target.parent)
    if room.exists():
        disk.remove_tree(room)
    disk.make_directory(room)
    try:
        yield room
        disk.sync_directory(room)
        disk.rename(room, target)
    except BaseException:
        with contextlib.suppress(OSError):
            disk.remove_tree(room)
        raise
    disk.sync_directory(target.parent)


class _Order(NamedTuple):
    """What is to be written.

    Attributes:
        base: the base.
        active: the skill.
        targets: installed tensor -> what a skill makes of it.
        inherited: installed tensor -> the base's tensor that it is, for all others.
        structure: of the live model.
    """

    base: Checkpoint
    active: Active
    targets: Mapping[str, Target]
    inherited: Mapping[str, str]
    structure: Structure

    def installed(self, name: str) -> Tensor:
        """A tensor as an install writes it."""
        return self.targets[name].compute(self.base) if name in self.targets else self.base.read(self.inherited[name])


def _order(active: Active, base: Checkpoint) -> _Order:
    targets, gone, renaming = find_targets([active], base), gone_tensors([active]), common_renaming([active])
    inherited = {renaming.apply(name): name for name in base.tensors if name not in gone}
    structure = find_structure(base, active, {*inherited, *targets})
    return _Order(base, active, targets, inherited, structure)


def _limit(rank: int | None, energy: float | None) -> Limit:
    if rank is not None and rank < 1:
        raise UsageError(f"a rank of {rank} holds nothing", hint="Try 16, or leave out --rank.")
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"{energy:g} is no share of a norm", hint="Try 0.999, or leave out --energy.")
    return Limit(rank, energy)


def _check(active: Active, base: Checkpoint) -> None:
    manifest = active.skill.manifest
    needed = {entry.reference for entry in manifest.tensors if entry.reference} | {name for name, _ in manifest.gone}
    check_base(active, base, tensor_digests(base, needed & base.tensors.keys()))


def _finished(draft: Draft, order: _Order, rules: Rules) -> Draft:
    """The draft without what modules that are replaced as a whole have anyway, and with ranks as the rules ask."""
    # peft replaces every module whose name ends like one of these.
    ends = tuple(draft.saved)
    draft.saved |= {name for name in order.structure.own if ends and name.endswith(ends)}
    draft.loras = {module: lora for module, lora in draft.loras.items() if module not in draft.saved}
    draft.biases = {key: name for key, name in draft.biases.items() if key[0] not in draft.saved}
    draft.rows = {module: rows for module, rows in draft.rows.items() if module not in draft.saved}
    if rules.one_rank:
        draft.loras = with_one_rank(draft.loras)
    if not draft.loras and (draft.saved or draft.biases or draft.rows):
        draft.loras = _idle(draft, order.structure)
    return draft


def _idle(draft: Draft, structure: Structure) -> dict[str, Lora]:
    """Factors that add nothing to the smallest linear layer: peft opens no LoRA adapter without any."""
    layers = [
        place
        for places in structure.places.values()
        for place in places
        if place.attribute == "weight" and place.kind in {"linear", "turned linear"} and place.module not in draft.saved
    ]
    if not layers:
        return {}
    place = min(layers, key=lambda place: (math.prod(place.shape), place.module))
    out, into = place.shape if place.kind == "linear" else place.shape[::-1]
    down, up = (Tensor.of(np.zeros(shape, np.float32)) for shape in ((1, into), (out, 1)))
    return {place.module: Lora(down, up, 1, rooted=False, place=place)}


def _lost_files(active: Active) -> list[LostTensor]:
    reason = "an adapter has no file of this kind; load the base with this one"
    return [LostTensor(path, reason) for path in _changed_paths(active) if not _is_tokenizer(path)]


def _changed_paths(active: Active) -> list[str]:
    return [change.path for change in active.skill.file_changes()]


def _is_tokenizer(path: str) -> bool:
    """Whether a file belongs to the tokenizer or its templates, which are kept beside adapters as well."""
    name = PurePosixPath(path).name
    return (
        name in _TOKENIZER or name.startswith("tokenizer") or name.endswith((".jinja", ".model", ".tiktoken", ".spm"))
    )


def _refuse(draft: Draft, summary: SkillSummary, *, strict: bool) -> None:
    if not (draft.loras or draft.saved or draft.biases or draft.rows):
        raise UsageError(
            f"no tensor of skill {summary.name} can be in such an adapter: {listing(map(_why, draft.lost), 2)}",
            hint="Export the merged model instead: --format merged.",
        )
    rough = [tensor.name for tensor in draft.tensors if tensor.how == "truncated"]
    if strict and (draft.lost or rough):
        missing = [f"not {_why(lost)}" for lost in draft.lost] + [f"only approximately {name}" for name in rough]
        raise SkillPackError(
            f"An adapter would not hold all of skill {summary.name}: {listing(missing, 3)}",
            hint="Leave out --strict to write the rest, or export the merged model: --format merged.",
        )


def _why(lost: LostTensor) -> str:
    return f"{lost.name} ({lost.reason})"


def _write(target: Path, draft: Draft, order: _Order, summary: SkillSummary) -> int:
    tensors = adapter_tensors(draft, order.structure, order.installed)
    forms = {}
    for key, read in tensors.items():
        tensor = read()
        forms[key] = tensor.dtype, tensor.shape
    metadata = {"format": "pt", "skillpack.skill": summary.name, "skillpack.digest": summary.digest}
    with built_beside(target) as room:
        write_safetensors(room / WEIGHTS, forms, lambda key: tensors[key](), metadata)
        disk.write_new(room / CONFIG, [dump(adapter_config(draft, order.structure, order.base.origin))])
        disk.write_new(room / "README.md", [_card(summary, order).encode()])
        for path, content in _tokenizer_files(order).items():
            disk.make_directory((room / path).parent)
            disk.write_new(room / path, [content])
        return (room / WEIGHTS).stat().st_size


def _tokenizer_files(order: _Order) -> dict[str, bytes]:
    """All files of the tokenizer if the skill changes one of them; loaders take them from the adapter's folder then."""
    changed = {path for path in _changed_paths(order.active) if _is_tokenizer(path)}
    paths = {*changed, *filter(_is_tokenizer, order.base.companions)} if changed else set()
    return {path: installed_file(order.base, order.active, path) for path in sorted(paths)}


def _card(summary: SkillSummary, order: _Order) -> str:
    base = base_name(order.base)
    return (
        f"---\nbase_model: {json.dumps(base)}\nlibrary_name: peft\ntags:\n- lora\n- skillpack\n---\n\n"
        f"# {summary.name}\n\nA LoRA adapter for {base}, exported from the skill `{summary.name}` "
        f"(`{summary.digest}`).\n"
    )
