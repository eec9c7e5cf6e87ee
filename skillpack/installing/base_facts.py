"""What is known of a base by hashing it once: digests of its tensors and of its weight files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from skillpack.fingerprint import fingerprint
from skillpack.installing.building import workers
from skillpack.installing.receipt import FileRecord
from skillpack.progress import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skillpack.installing.model_folder import Base
    from skillpack.progress import Progress


@dataclass(frozen=True)
class Facts:
    """Digests of a base.

    Attributes:
        fingerprint: of the whole model.
        tensors: tensor name -> digest.
        weights: relative path -> record, of weight files and indexes.
    """

    fingerprint: str
    tensors: Mapping[str, str]
    weights: Mapping[str, FileRecord]


def find_facts(base: Base, progress: Progress) -> Facts:
    """Facts from the receipt where there is one, which the caller has compared with the files; else by hashing.

    Args:
        base: the base.
        progress: told about the bytes hashed.
    """
    receipt = base.receipt
    if receipt is not None:
        return Facts(receipt.fingerprint, receipt.tensors, receipt.weights)
    tensors = base.checkpoint.tensors
    files = {path: file for path in base.weight_paths() if (file := base.folder.root / path)}
    jobs: list[tuple[int, Callable[[], tuple[str, str | FileRecord]]]] = [
        *((file.stat().st_size, partial(_record, base, path)) for path, file in files.items()),
        *((info.nbytes, partial(_digest, base, name)) for name, info in tensors.items()),
    ]
    jobs.sort(key=lambda job: -job[0])
    stage = Stage(progress, "checking the base", sum(size for size, _ in jobs))
    digests: dict[str, str] = {}
    records: dict[str, FileRecord] = {}
    with ThreadPoolExecutor(workers()) as pool:
        for (size, _), (name, found) in zip(jobs, pool.map(lambda job: job[1](), jobs), strict=True):
            if isinstance(found, str):
                digests[name] = found
            else:
                records[name] = found
            stage.advance(size)
    digests = dict(sorted(digests.items()))
    return Facts(fingerprint(digests), digests, dict(sorted(records.items())))


def _record(base: Base, path: str) -> tuple[str, FileRecord]:
    return path, FileRecord.of(base.folder.root / path)


def _digest(base: Base, name: str) -> tuple[str, str]:
    return name, base.checkpoint.read(name).digest()
