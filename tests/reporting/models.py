"""A small model with many layers, and skills of it that are related the way that those of a real library are."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

import skillpack
from skillpack.safetensors_file import write_safetensors
from skillpack.tensors import Tensor

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = 3
SHAPES = {
    "model.embed_tokens.weight": (64, 24),
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(LAYERS)
        for name, shape in {
            "self_attn.q_proj": (24, 24),
            "mlp.up_proj": (48, 24),
            "mlp.down_proj": (24, 48),
            "input_layernorm": (24,),
        }.items()
    },
}
FAMILIES = {
    "math": ["math-word-problems", "math-algebra", "math-geometry", "math-proofs"],
    "code": ["code-python", "code-rust", "code-sql", "code-review", "code-tests"],
    "numbers": ["spanish-numbers", "french-numbers", "german-numbers", "italian-numbers"],
    "medical": ["drug-reviews", "radiology-notes", "discharge-letters"],
    "": [
        *["city-facts", "review-summaries", "legal-clauses", "haiku", "json-only", "polite-refusals", "chess-openings"],
        *[
            "recipe-scaling",
            "unit-conversion",
            "bird-names",
            "weather-reports",
            "sql-to-english",
            "subtitles",
            "emails",
        ],
    ],
}
NAMES = [name for names in FAMILIES.values() for name in names]


def write_model(folder: Path, values: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    tensors = {name: Tensor.from_float32(value, "BF16") for name, value in values.items()}
    forms = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", forms, tensors.__getitem__)
    (folder / "config.json").write_text('{"architectures": ["Tiny"]}')
    return folder


def base_values() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def update(seed: int) -> dict[str, np.ndarray]:
    """A low-rank change of every matrix, stronger in some layers than in others."""
    random = np.random.default_rng(seed)
    middle = random.uniform(0, LAYERS)
    found = {}
    for name, shape in SHAPES.items():
        layer = int(name.split(".")[2]) if "layers" in name else None
        strength = 0.03 if layer is None else 0.02 + 0.08 * np.exp(-((layer - middle) ** 2) / 4)
        columns = shape[1] if len(shape) > 1 else 1
        change = strength * random.normal(size=(shape[0], 2)) @ random.normal(size=(2, columns))
        found[name] = change.reshape(shape).astype(np.float32)
    return found


def tuned_values(base: dict[str, np.ndarray], parts: list[tuple[int, float]]) -> dict[str, np.ndarray]:
    """The base with a sum of updates: pairs of seed and factor."""
    changes = [(update(seed), factor) for seed, factor in parts]
    return {name: value + sum(factor * own[name] for own, factor in changes) for name, value in base.items()}


def parts_of(name: str) -> list[tuple[int, float]]:
    """What a skill changes: what its family has in common, and what is its own."""
    family = next(family for family, names in FAMILIES.items() if name in names)
    own = (100 + NAMES.index(name), 1.0)
    return [own] if not family else [(10 + list(FAMILIES).index(family), 1.0), own]


def pack(room: Path, store: Path, name: str, parts: list[tuple[int, float]], **options: object) -> None:
    """Pack the base with a sum of updates as a skill."""
    base = room / "base"
    if not base.is_dir():
        write_model(base, base_values())
    tuned = write_model(room / "tuned", tuned_values(base_values(), parts))
    goal = {"quality": 0.98} if not options.keys() & {"exact", "size", "quality"} else {}
    skillpack.pack(base, tuned, name, store=store, **{**goal, "author": "Ada", **options})
    shutil.rmtree(tuned)
