"""The files of an adapter's folder, as PEFT writes and reads them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skillpack.interop.drafting import Lora
from skillpack.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from skillpack.interop.drafting import Draft
    from skillpack.interop.structure import Structure

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."


def with_one_rank(loras: Mapping[str, Lora]) -> dict[str, Lora]:
    """The same updates with factors of one rank and one scale, for readers that know no patterns.

    Factors that agree already stay as they are. Others are filled up with zeros, and B takes up its own scale.
    """
    if len({(lora.rank, lora.alpha, lora.rooted) for lora in loras.values()}) <= 1:
        return dict(loras)
    rank = max(lora.rank for lora in loras.values())
    return {module: _filled(lora, rank) for module, lora in loras.items()}


def adapter_config(draft: Draft, structure: Structure, base: str) -> dict[str, Any]:
    """The content of adapter_config.json.

    Args:
        draft: what the adapter holds.
        structure: of the live model.
        base: folder, or Hub id with a revision, as `Checkpoint.origin` has it.
    """
    rooted = any(lora.rooted for lora in draft.loras.values())
    ranks = {module: lora.rank for module, lora in draft.loras.items()}
    alphas = {module: _alpha(lora, rooted=rooted) for module, lora in draft.loras.items()}
    rank, alpha = _usual(ranks.values()) or 8, _usual(alphas.values()) or 8
    name, _, revision = (base, "", "") if Path(base).expanduser().exists() else base.partition("@")
    model_class = structure.model_class
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if re.search(r"(CausalLM|LMHeadModel)$", model_class) else None,
        "base_model_name_or_path": name,
        "revision": revision or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(draft.loras),
        "rank_pattern": {_pattern(module): own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {_pattern(module): own for module, own in alphas.items() if own != alpha},
        "fan_in_fan_out": any(lora.place.kind == "turned linear" for lora in draft.loras.values()),
        "bias": "all" if draft.biases else "none",
        "modules_to_save": sorted(draft.saved) or None,
        "trainable_token_indices": {module: indices for module, (indices, _) in draft.rows.items()} or None,
        "use_rslora": rooted,
        "use_dora": False,
        "init_lora_weights": True,
    }


def adapter_tensors(
    draft: Draft, structure: Structure, installed: Callable[[str], Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """Key of the weight file -> what gives its tensor.

    Args:
        draft: what the adapter holds.
        structure: of the live model.
        installed: gives an installed tensor.
    """
    found: dict[str, Callable[[], Tensor]] = {}
    for module, lora in draft.loras.items():
        found |= {f"{module}.{key}": partial(_given, tensor) for key, tensor in _factors(lora).items()}
    for module in draft.saved:
        own = structure.own[module]
        found |= {f"{module}.{attribute}": partial(installed, name) for attribute, name in own.items()}
    for (module, attribute), name in draft.biases.items():
        inner = ".base_layer" if module in draft.loras else ""
        found[f"{module}{inner}.{attribute}"] = partial(installed, name)
    for module, (_, rows) in draft.rows.items():
        found[f"{module}.token_adapter.trainable_tokens_delta"] = partial(_given, rows)
    return {f"{_PREFIX}{key}": found[key] for key in sorted(found)}


def dump(document: Mapping[str, Any]) -> bytes:
    """JSON as PEFT writes it."""
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _factors(lora: Lora) -> dict[str, Tensor]:
    """A and B under the names and in the shapes that the kind of module asks for."""
    down, up = lora.down, lora.up
    if lora.place.kind == "embedding":
        return {"lora_embedding_A": down, "lora_embedding_B": up}
    if lora.place.kind == "convolution":
        kernel = lora.place.shape[1:]
        ones = (1,) * (len(kernel) - 1)
        down = Tensor(down.dtype, (lora.rank, *kernel), down.data)
        up = Tensor(up.dtype, (up.shape[0], lora.rank, *ones), up.data)
    return {"lora_A.weight": down, "lora_B.weight": up}


def _filled(lora: Lora, rank: int) -> Lora:
    scale = lora.alpha / math.sqrt(lora.rank) if lora.rooted else lora.alpha / lora.rank
    down, up = (np.zeros(shape, np.float32) for shape in ((rank, lora.down.shape[1]), (lora.up.shape[0], rank)))
    down[: lora.rank] = lora.down.float32()
    up[:, : lora.rank] = lora.up.float32() * np.float32(scale)
    # A scale that is no power of two needs more digits than 16-bit factors have.
    dtype = lora.up.dtype if math.frexp(scale)[0] == 0.5 else "F32"
    return Lora(Tensor.from_float32(down, dtype), Tensor.from_float32(up, dtype), rank, rooted=False, place=lora.place)


def _alpha(lora: Lora, *, rooted: bool) -> float:
    """Alpha where all modules have, or have not, the root."""
    if lora.rooted or not rooted:
        return lora.alpha
    return lora.alpha / math.sqrt(lora.rank)


def _usual(values: Iterable[float]) -> Any:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value)) if counts else None


def _pattern(module: str) -> str:
    """A regular expression that peft matches with this module and no other."""
    return f"^{re.escape(module)}"
