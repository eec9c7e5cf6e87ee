"""Digests of whole models that do not depend on shards, file order or safetensors metadata."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from skillpack.checkpoint import Checkpoint


def fingerprint(digests: Mapping[str, str]) -> str:
    r"""Fingerprint of a model: sha256 over sorted ``name digest\n`` lines.

    Args:
        digests: tensor name -> `Tensor.digest`.

    >>> fingerprint({"b": "sha256:00", "a": "sha256:11"}) == fingerprint({"a": "sha256:11", "b": "sha256:00"})
    True
    """
    lines = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def tensor_digests(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Digests of a checkpoint's tensors, reading one tensor at a time.

    Args:
        checkpoint: the model.
        names: tensors to digest; all by default.
        progress: called with the bytes of each tensor once it is hashed.

    Returns:
        Tensor name -> digest, sorted by name.
    """
    digests = {}
    for name in sorted(checkpoint.tensors if names is None else names):
        digests[name] = checkpoint.read(name).digest()
        if progress is not None:
            progress(checkpoint.tensors[name].nbytes)
    return digests
