"""What a base makes of the background, kept in the user's cache for the next time the base is opened.

A hundred texts take seconds where hashing the weights takes a moment. A file is named by the SHA-256 of everything
that the features depend on: the base's configuration and parameters, the layer, and the texts as tokens. It can be
deleted at any time; one that makes no sense is passed over and written again.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from skillpack.settings import backgrounds_folder
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from skillpack.routing.protocol import Tokens

_KEPT: Final = 32
"""Files that are kept, the latest ones."""


def remembered(model: Any, layer: int, texts: Sequence[Tokens], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Features of texts: those that were kept, or else what is computed now and kept for the next time.

    Args:
        model: the base.
        layer: after which features are taken.
        texts: as the model reads them.
        compute: gives features, fp32 of shape (texts, width).
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        # Weights that are elsewhere would have to be fetched to know them.
        return compute()
    path = backgrounds_folder() / f"{_name(model, layer, texts)}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, ValueError, KeyError):
        found = load(path.read_bytes())["features"]
        if found.dtype == torch.float32 and found.dim() == 2 and len(found) == len(texts):
            path.touch()
            return found
    found = compute()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, [save({"features": found.contiguous()})])
        _prune(path.parent)
    return found


def _name(model: Any, layer: int, texts: Sequence[Tokens]) -> str:
    known = hashlib.sha256(repr((layer, [list(tokens) for tokens in texts])).encode())
    known.update(model.config.to_json_string().encode())
    for name, parameter in model.named_parameters():
        values = parameter.detach().cpu().contiguous()
        known.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        known.update(memoryview(values.flatten().view(torch.uint8).numpy()))
    return known.hexdigest()


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[_KEPT:]:
        path.unlink(missing_ok=True)
