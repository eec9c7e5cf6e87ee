"""Which weight files an install writes, and which tensors go into each.

A file is written anew if a tensor in it changes, leaves, or gets another name; other files stay. New tensors go to the
last file of their folder. The index of sharded weights is written whenever one of its shards is, even with the same
content, so that its absence can say that the shards are being exchanged (`skillpack.installing.journal`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from skillpack.checkpoint import read_json
from skillpack.errors import ConflictError, DamagedSkillError
from skillpack.safetensors_file import aligned_order, plan_header
from skillpack.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from skillpack.delta import Renaming
    from skillpack.installing.claims import Target
    from skillpack.installing.model_folder import Base, WeightFile

_METADATA: Final = {"format": "pt"}
_PLACE: Final = re.compile(r"\w[\w-]{0,99}", re.ASCII)


class Planned(NamedTuple):
    """One tensor of a file to be written.

    Attributes:
        dtype: as written; so is shape.
        shape: see `dtype`.
        base: the base tensor that it is a copy of, unless there is a target.
        target: what skills make of it.
    """

    dtype: str
    shape: tuple[int, ...]
    base: str | None
    target: Target | None


@dataclass(frozen=True)
class PlannedFile:
    """A weight file to be written.

    Attributes:
        path: relative to the model folder.
        tensors: name within the file -> tensor, in the order of the file.
        metadata: the header's `__metadata__`.
    """

    path: str
    tensors: Mapping[str, Planned]
    metadata: Mapping[str, str]

    @property
    def forms(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Name within the file -> dtype and shape."""
        return {name: (planned.dtype, planned.shape) for name, planned in self.tensors.items()}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(plan_header(self.forms, self.metadata)) + _total_bytes(self.forms)


def plan_weights(
    base: Base, targets: Mapping[str, Target], renaming: Renaming, gone: set[str]
) -> tuple[list[PlannedFile], dict[str, bytes]]:
    """Weight files and indexes to be written.

    Args:
        base: the untouched base.
        targets: what skills change, by written name.
        renaming: rule for the names of all tensors of the base.
        gone: base tensors to leave out.

    Returns:
        Files sorted by path, and relative path of each index -> its content.

    Raises:
        ConflictError: two tensors would have one name.
        DamagedSkillError: a new tensor has no place in the folder.
    """
    contents: dict[str, dict[str, Planned]] = {}
    touched: set[str] = set()
    for weight_file in base.weights:
        kept = contents[weight_file.path] = _kept(weight_file, targets, renaming, gone)
        unchanged = all(planned.target is None for planned in kept.values())
        if not unchanged or list(kept) != list(weight_file.header.entries):
            touched.add(weight_file.path)
    covered = {renaming.apply(name) for name in base.checkpoint.tensors}
    for name in sorted(targets.keys() - covered):
        path, own_name = _home(base, name)
        _add(contents.setdefault(path, {}), own_name, Planned(*targets[name].form, None, targets[name]))
        touched.add(path)
    metadata = {weight_file.path: weight_file.header.metadata for weight_file in base.weights}
    files = [_planned_file(path, contents[path], metadata.get(path, _METADATA)) for path in sorted(touched)]
    return files, _plan_indexes(base, contents, touched)


def _kept(
    weight_file: WeightFile, targets: Mapping[str, Target], renaming: Renaming, gone: set[str]
) -> dict[str, Planned]:
    """What becomes of the tensors that a file of the base has."""
    kept: dict[str, Planned] = {}
    prefix = f"{weight_file.place}/" if weight_file.place else ""
    for own_name, entry in weight_file.header.entries.items():
        name = weight_file.full_name(own_name)
        if name in gone:
            continue
        written = renaming.apply(name)
        if not written.startswith(prefix):
            raise DamagedSkillError(f"Tensor {name} cannot be renamed to {written}, which belongs to another folder")
        target = targets.get(written)
        dtype, shape = (entry.dtype, entry.shape) if target is None else target.form
        _add(kept, written[len(prefix) :], Planned(dtype, shape, name, target))
    return kept


def _home(base: Base, name: str) -> tuple[str, str]:
    """Path of the file that a new tensor goes to, and its name there."""
    places = {weight_file.place for weight_file in base.weights}
    place = max((place for place in places if not place or name.startswith(f"{place}/")), key=len, default="")
    first, slash, rest = name.partition("/")
    if slash and not place and _PLACE.fullmatch(first) and re.match(r"\d+_", first):
        return f"{first}/model.safetensors", rest
    in_place = sorted(weight_file.path for weight_file in base.weights if weight_file.place == place)
    if not in_place:
        raise DamagedSkillError(f"The model has no file for the new tensor {name}")
    return in_place[-1], name[len(place) + 1 :] if place else name


def _add(tensors: dict[str, Planned], name: str, planned: Planned) -> None:
    if name in tensors:
        raise ConflictError(f"Two tensors would have the name {name} in one file")
    tensors[name] = planned


def _planned_file(path: str, tensors: Mapping[str, Planned], metadata: Mapping[str, str]) -> PlannedFile:
    order = aligned_order({name: (planned.dtype, planned.shape) for name, planned in tensors.items()})
    return PlannedFile(path, {name: tensors[name] for name in order}, metadata)


def _plan_indexes(base: Base, contents: Mapping[str, Mapping[str, Planned]], touched: set[str]) -> dict[str, bytes]:
    planned = {}
    for place, index in base.indexes.items():
        shards = {file.path: file for file in base.weights if file.place == place}
        current = base.file(index)
        if not touched & shards.keys() or current is None:
            continue
        same_names = all(list(contents[path]) == list(file.header.entries) for path, file in shards.items())
        forms = {path: {own: (item.dtype, item.shape) for own, item in contents[path].items()} for path in shards}
        same_sizes = all(_total_bytes(forms[path]) == _file_bytes(file) for path, file in shards.items())
        planned[index] = current.read_bytes() if same_names and same_sizes else _index(current, forms)
    return planned


def _index(current: Path, forms: Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]) -> bytes:
    document = read_json(current)
    weight_map = {name: path.rpartition("/")[2] for path, tensors in forms.items() for name in tensors}
    metadata: dict[str, Any] = dict(document.get("metadata") or {})
    if "total_size" in metadata:
        metadata["total_size"] = sum(_total_bytes(tensors) for tensors in forms.values())
    if "total_parameters" in metadata:
        shapes = [shape for tensors in forms.values() for _, shape in tensors.values()]
        metadata["total_parameters"] = sum(math.prod(shape) for shape in shapes)
    return (
        json.dumps({**document, "metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
    ).encode()


def _total_bytes(forms: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    return sum(math.prod(shape) * DTYPE_BYTES[dtype] for dtype, shape in forms.values())


def _file_bytes(weight_file: WeightFile) -> int:
    return sum(entry.end - entry.start for entry in weight_file.header.entries.values())
