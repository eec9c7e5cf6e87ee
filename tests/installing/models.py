"""Tiny sharded checkpoints, fine-tunes of them, and skills made of those with the real packer."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from typing import TYPE_CHECKING

import numpy as np

from skillpack.checkpoint import open_checkpoint
from skillpack.installing import Wanted
from skillpack.packing import pack
from skillpack.safetensors_file import aligned_order, write_safetensors
from skillpack.skill import open_skill
from skillpack.tensors import Tensor
from skillpack_store import Repository

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONFIG = {"architectures": ["Tiny"], "vocab_size": 12, "use_cache": True}
TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []}
SHAPES = {
    "embed.weight": (12, 8),
    "layers.0.norm.weight": (8,),
    "layers.0.up.weight": (8, 16),
    "layers.1.down.weight": (16, 8),
    "layers.1.norm.weight": (8,),
}
SHARDS = {
    "model-00001-of-00002.safetensors": ["embed.weight", "layers.0.norm.weight", "layers.0.up.weight"],
    "model-00002-of-00002.safetensors": ["layers.1.down.weight", "layers.1.norm.weight", "steps"],
}


def base_tensors(seed: int = 0) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    tensors = {
        name: Tensor.from_float32(random.standard_normal(shape, np.float32), "BF16") for name, shape in SHAPES.items()
    }
    return {**tensors, "steps": Tensor.of(np.arange(4))}


def moved(tensors: Mapping[str, Tensor], seed: int, *names: str) -> dict[str, Tensor]:
    """The same tensors, those that are named with other values."""
    random = np.random.default_rng(seed)
    new = dict(tensors)
    for name in names:
        values = tensors[name].float32()
        new[name] = Tensor.from_float32(
            values + np.float32(0.05) * random.standard_normal(values.shape, np.float32), tensors[name].dtype
        )
    return new


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    forms = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    order = aligned_order(forms)
    write_safetensors(path, {name: forms[name] for name in order}, tensors.__getitem__, {"format": "pt"})


def write_model(folder: Path, tensors: Mapping[str, Tensor], *, sharded: bool = True, **files: object) -> Path:
    """Write a model folder: weights, config, tokenizer, and further JSON files by their stem."""
    folder.mkdir(parents=True)
    if sharded:
        rest = [name for name in tensors if name not in [own for names in SHARDS.values() for own in names]]
        weight_map = {}
        for shard, usual in SHARDS.items():
            names = [name for name in usual if name in tensors] + (rest if shard.startswith("model-00002") else [])
            write_weights(folder / shard, {name: tensors[name] for name in names})
            weight_map.update(dict.fromkeys(names, shard))
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        write_weights(folder / "model.safetensors", tensors)
    for name, content in {"config": CONFIG, "tokenizer": TOKENIZER, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "README.md").write_text("A tiny model.\n")
    return folder


def make_skill(
    store: Path, base: Path, tensors: Mapping[str, Tensor], name: str, *, exact: bool = True, **files: object
) -> Wanted:
    """Pack a fine-tune of `base` that has these tensors and files."""
    tuned = write_model(store.parent / f"tuned-{name}", tensors, sharded=False, **files)
    report = pack(base, tuned, name, exact=exact, store=store, author="Ada", license="mit")
    shutil.rmtree(tuned)
    return wanted(store, report.digest, name)


def wanted(store: Path, digest: str, name: str, weight: float = 1.0) -> Wanted:
    repository = Repository.open(store)
    return Wanted(open_skill(repository, digest, name), repository, weight, f"{name}@1")


def model_files(folder: Path) -> dict[str, str]:
    """Relative path -> digest, of everything outside of .skillpack."""
    return {path: text for path, text in whole(folder).items() if not path.startswith(".skillpack")}


def whole(folder: Path) -> dict[str, str]:
    """Relative path -> mode and digest, of everything there is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        found[path.relative_to(folder).as_posix()] = f"{stat.S_IMODE(status.st_mode):o} {content}"
    return found


def tensors_of(folder: Path) -> dict[str, str]:
    checkpoint = open_checkpoint(folder)
    return {name: checkpoint.read(name).digest() for name in checkpoint.tensors}


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: tensor.digest() for name, tensor in tensors.items()}
