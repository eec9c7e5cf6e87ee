"""Bytes on disk, and folders to work in."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from skillpack.checkpoint import open_checkpoint
from skillpack.fingerprint import tensor_digests
from skillpack_store import Repository

if TYPE_CHECKING:
    from collections.abc import Iterator

WEIGHTS = "model.safetensors"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes away; in the folder for temporary files (``TMPDIR``)."""
    with tempfile.TemporaryDirectory(prefix="skillpack-bench-") as folder:
        yield Path(folder)


def skill_bytes(store: Path, digest: str) -> int:
    """Bytes of the files that the digest of a skill covers: its manifest, its description and its layers."""
    repository = Repository.open(store)
    listing = repository.skill_manifest(digest)
    blobs = [digest, listing.config.digest, *(layer.digest for layer in listing.layers)]
    return sum(repository.blobs.path(blob).stat().st_size for blob in blobs)


def same_tensors(one: Path, other: Path) -> tuple[int, int]:
    """How many tensors of two models have the same name, dtype, shape and bytes; and how many names there are."""
    first, second = (tensor_digests(open_checkpoint(folder)) for folder in (one, other))
    names = first.keys() | second.keys()
    return sum(first.get(name) == second.get(name) for name in names), len(names)
