"""Tiny checkpoints, and the way from a skill back to the fine-tune."""

from __future__ import annotations

import json

import numpy as np

from skillpack.checkpoint import open_checkpoint
from skillpack.safetensors_file import write_safetensors
from skillpack.tensors import Tensor
from skillpack_store import Repository

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def tensor(values, dtype="BF16"):
    return Tensor.from_float32(np.asarray(values, np.float32), dtype)


def normal(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def base_values(width=64, blocks=2, vocabulary=300):
    values = {EMBED: normal(vocabulary, width, seed=1), NORM: 1 + normal(width, seed=2, scale=0.1)}
    for block in range(blocks):
        for at, (name, shape) in enumerate(
            [("q_proj", (width, width)), ("up_proj", (2 * width, width)), ("norm", (width,)), ("bias", (width,))]
        ):
            values[f"model.layers.{block}.{name}.weight"] = normal(*shape, seed=10 * block + at + 3, scale=0.2)
    return values


def drift(shape, seed, scale=0.02, rank=4):
    """A change as training makes it: a few strong directions and a little of everything."""
    if len(shape) < 2:
        return normal(*shape, seed=seed, scale=scale)
    strong = normal(shape[0], rank, seed=seed) @ normal(rank, shape[1], seed=seed + 1)
    return scale * (strong / np.sqrt(rank) + 0.2 * normal(*shape, seed=seed + 2))


def tuned_values(base, seed=100, unchanged=()):
    return {
        name: values if name in unchanged else values + drift(values.shape, seed + 5 * at)
        for at, (name, values) in enumerate(sorted(base.items()))
    }


def stored(values, dtype="BF16"):
    return {name: found if isinstance(found, Tensor) else tensor(found, dtype) for name, found in values.items()}


def write(folder, values, dtype="BF16", **files):
    """A model folder; `files` are JSON documents by name, without the ending."""
    tensors = stored(values, dtype)
    folder.mkdir(parents=True)
    write_safetensors(
        folder / "model.safetensors",
        {name: (found.dtype, found.shape) for name, found in tensors.items()},
        tensors.__getitem__,
        {"format": "pt"},
    )
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def add(start, delta, dtype):
    return tensor(start.float32() + delta, dtype)


def rebuilt(skill, base_folder):
    """The fine-tune as a skill gives it back, without anything of the installer."""
    base = open_checkpoint(base_folder)
    gone = {name for name, _ in skill.manifest.gone}
    result = {skill.manifest.renaming.apply(name): base.read(name) for name in base.tensors if name not in gone}
    for entry in skill.manifest.tensors:
        if entry.same_as is not None:
            continue
        reference = None if entry.reference is None else base.read(entry.reference)
        value, delta, rows = skill.decode(entry, reference)
        if value is None:
            common = reference.float32()[: delta.shape[0]] if delta.ndim else reference.float32()
            value = tensor(common + delta, entry.dtype)
        if rows is not None:
            value = Tensor(entry.dtype, entry.shape, np.concatenate([value.data, rows.data]))
        result[entry.name] = value
    for entry in skill.manifest.tensors:
        if entry.same_as is not None:
            result[entry.name] = result[entry.same_as]
    return result


def assert_same(found, expected):
    assert sorted(found) == sorted(expected)
    for name, wanted in expected.items():
        assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape), name
        np.testing.assert_array_equal(found[name].data, wanted.data, err_msg=name)


def error(found, base, tuned):
    """Relative Frobenius error of the whole change."""
    missed = sum(np.square(found[name].float32() - tuned[name].float32(), dtype=float).sum() for name in tuned)
    total = sum(np.square(tuned[name].float32() - base[name].float32(), dtype=float).sum() for name in tuned)
    return float(np.sqrt(missed / total))


def bytes_on_disk(store, digest):
    """What the files that a digest covers take."""
    repository = Repository.open(store)
    listing = repository.skill_manifest(digest)
    digests = {digest, listing.config.digest, *(layer.digest for layer in listing.layers)}
    return sum(repository.blobs.path(found).stat().st_size for found in digests)
