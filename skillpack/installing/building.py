"""Writing the files of an installed model: tensors are computed side by side and written in order.

What is in memory at one time is bounded: small tensors share a budget, and one that exceeds it waits for its turn.
Every file is hashed while it is written and synced before its record is returned.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from skillpack.errors import DamagedSkillError
from skillpack.installing.receipt import FileRecord
from skillpack.safetensors_file import file_chunks
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from typing_extensions import Buffer

    from skillpack.checkpoint import Checkpoint
    from skillpack.installing.model_folder import Base
    from skillpack.installing.weights import Planned, PlannedFile
    from skillpack.progress import Stage
    from skillpack.tensors import Tensor

_BUDGET: Final = 128 << 20
"""Bytes of tensors that are computed ahead of the next one to be written."""


@dataclass(frozen=True)
class Build:
    """The files to write.

    Attributes:
        weights: weight files.
        contents: relative path -> content of the other files.
    """

    weights: Sequence[PlannedFile]
    contents: Mapping[str, bytes]

    @property
    def paths(self) -> list[str]:
        """All relative paths, sorted."""
        return sorted([*(planned.path for planned in self.weights), *self.contents])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(planned.size for planned in self.weights) + sum(map(len, self.contents.values()))


def write_build(build: Build, base: Base, target: Path | None, stage: Stage) -> dict[str, FileRecord]:
    """Write all files of a build below a folder, durably but for the names in existing folders.

    Args:
        build: the files.
        base: what they are made from; files that replace an original get its permissions.
        target: the folder; None to compute everything and write nothing.
        stage: told about the bytes written.

    Returns:
        Relative path -> what was written; empty without a target.

    Raises:
        ConflictError: skills do not go together.
        DamagedSkillError: a skill's content makes no sense.
        OSError: the disk is full or not writable; files that were complete by then are left.
    """
    records = {}
    for planned in build.weights:
        record = _write(target, planned.path, base, weight_chunks(planned, base.checkpoint), stage)
        records.update({} if record is None else {planned.path: record})
    for path in sorted(build.contents):
        record = _write(target, path, base, [build.contents[path]], stage)
        records.update({} if record is None else {path: record})
    return records


def weight_chunks(planned: PlannedFile, base: Checkpoint) -> Iterator[Buffer]:
    """The bytes of a weight file, computed as they are asked for.

    Raises:
        DamagedSkillError: a tensor does not come out as the skill's manifest announces it.
    """
    tensors = _in_order(list(planned.tensors.values()), base)
    try:
        yield from file_chunks(planned.forms, lambda _: next(tensors), planned.metadata)
    except ValueError as error:
        raise DamagedSkillError(f"{planned.path} cannot be built: {error}") from error


def _write(target: Path | None, path: str, base: Base, chunks: Iterable[Buffer], stage: Stage) -> FileRecord | None:
    hashed = _Hashed(chunks, stage)
    if target is None:
        for _ in hashed:
            pass
        return None
    written = target / path
    disk.make_directory(written.parent)
    disk.write_new(written, hashed)
    original = base.file(path)
    if original is not None:
        disk.set_mode(written, original.stat().st_mode & 0o777)
    disk.sync_directory(written.parent)
    return FileRecord(hashed.size, f"sha256:{hashed.content.hexdigest()}", written.stat().st_mtime_ns)


class _Hashed:
    """Passes chunks on; keeps their digest and size in bytes."""

    def __init__(self, chunks: Iterable[Buffer], stage: Stage) -> None:
        self._chunks = chunks
        self._stage = stage
        self.content = hashlib.sha256()
        self.size = 0

    def __iter__(self) -> Iterator[Buffer]:
        for chunk in self._chunks:
            self.content.update(chunk)
            self.size += memoryview(chunk).nbytes
            yield chunk
            self._stage.advance(memoryview(chunk).nbytes)


def _in_order(items: Sequence[Planned], base: Checkpoint) -> Iterator[Tensor]:
    """The tensors in their order, some computed ahead in threads."""
    waiting = deque(items)
    running: deque[tuple[Future[Tensor], int]] = deque()
    with ThreadPoolExecutor(workers()) as pool:
        try:
            while waiting or running:
                while waiting and (not running or _ahead(running) + _cost(waiting[0]) <= _BUDGET):
                    item = waiting.popleft()
                    running.append((pool.submit(_tensor, item, base), _cost(item)))
                future, _ = running.popleft()
                yield future.result()
        finally:
            for future, _ in running:
                future.cancel()


def _ahead(running: Iterable[tuple[Future[Tensor], int]]) -> int:
    return sum(cost for _, cost in islice(running, 1, None))


def workers() -> int:
    """How many threads the processors that this process may use can keep busy."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cost(item: Planned) -> int:
    return 0 if item.target is None else item.target.working_bytes


def _tensor(item: Planned, base: Checkpoint) -> Tensor:
    if item.target is not None:
        return item.target.compute(base)
    if item.base is None:
        raise ValueError("a planned tensor comes from the base or from skills")
    return base.read(item.base)
