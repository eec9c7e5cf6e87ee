"""What an interrupted pack leaves, so that the next one need not analyse and check the same tensors again.

Each tensor's analysis is one file in the pack's own folder, its spectrum alone another where that was asked for,
written under a temporary name and renamed; the process maps it instead of a temporary file, so that this takes no more
room. Nothing is synced and nothing is trusted: a file whose checksum is wrong, after a power loss say, is as good as
none. That a tensor which was coded has been decoded and compared is a line of another file. The folder goes when the
pack succeeds. Only one process at a time uses it; another pack of the same models spools to temporary files and leaves
nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from filelock import FileLock, Timeout

from skillpack.errors import NotFiniteError, UsageError
from skillpack.packing.spool import mapped, spool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from skillpack.codecs.protocol import Analysis
    from skillpack.tensors import Floats

STALE: Final = 14 * 24 * 3600.0
"""Seconds after which leftovers are not worth keeping."""
_LOCK: Final = "lock"
_ENDING: Final = ".analysis"
_CHECKED: Final = "checked.txt"
_MAGIC: Final = b"skillpack analysis 1\n"
_SUM: Final = 32
"""Bytes of the checksum at the end of a file."""
_ALIGNMENT: Final = 64


class Unfinished:
    """Work that outlives the process; without a folder analyses live in temporary files and nothing does.

    Attributes:
        kept: whether anything outlives the process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self.kept = folder is not None
        self._left = set() if folder is None else {path.name.partition(".")[0] for path in folder.glob(f"*{_ENDING}")}
        self._resumed: set[str] = set()
        self._checked = {} if folder is None else _read_checked(folder / _CHECKED)
        self._skipped: set[str] = set()
        self._writing = threading.Lock()

    @property
    def resumed(self) -> int:
        """How many tensors an earlier process had worked on, as far as this one has come."""
        return max(len(self._resumed), len(self._skipped))

    def find(self, key: str, finest: float) -> list[Analysis] | None:
        """The analyses that were kept for a tensor; None if there are none, or none for these steps.

        Args:
            key: of the tensor and all that its analyses depend on.
            finest: for which step they must have been made.
        """
        if self._folder is None:
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = _read(self._folder / _file_name(key, finest), key)
            if found is not None and finest == found[0]:
                self._resumed |= {key} & self._left
                return found[1]
        return None

    def keep(self, key: str, finest: float, analyses: Sequence[Analysis]) -> list[Analysis]:
        """Put analyses of a tensor, in place of earlier ones, into a file and return them mapped from there.

        Those for an infinite step, which hold no vectors, have a file of their own: a spectrum that is known as a whole
        is not to be had from the others.
        """
        if self._folder is not None:
            # No room or no permission there: then this tensor is analysed again after an interruption.
            with contextlib.suppress(OSError):
                path = self._folder / _file_name(key, finest)
                _write(path, {"key": key, "finest": float(finest).hex()}, analyses)
                self._left.discard(key)
                return _mapped(path)[1]
        return [spool(analysis) for analysis in analyses]

    def checked(self, key: str, name: str) -> float | None:
        """The relative error that an earlier process has found in what was coded; None if it has found none.

        Args:
            key: of all bytes that a part of a tensor was coded to.
            name: of the tensor.
        """
        error = self._checked.get(key)
        if error is not None:
            self._skipped.add(name)
        return error

    def keep_check(self, key: str, error: float) -> None:
        """Remember that something was decoded and compared, and the error that it has."""
        if self._folder is not None:
            line = f"{key} {error.hex()}"
            # Without room or permission it is checked again after an interruption.
            with self._writing, contextlib.suppress(OSError), (self._folder / _CHECKED).open("a") as file:
                file.write(f"{line} {_digest(line)}\n")


@contextmanager
def unfinished_work(root: Path, name: str) -> Iterator[Unfinished]:
    """What is left of a pack, to be added to; gone when the block ends well, or in a way that a repetition would too.

    Args:
        root: folder of all unfinished work; stale work of others in it is removed.
        name: of the pack: a file name.
    """
    _remove_stale(root)
    folder, created = root / name, not root.parent.exists()
    lock = FileLock(folder / _LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except (Timeout, OSError, NotImplementedError):
        yield Unfinished()
        return
    done = False
    try:
        for path in folder.glob("*.tmp"):
            path.unlink(missing_ok=True)
        yield Unfinished(folder)
        done = True
    except (UsageError, NotFiniteError):
        done = True
        raise
    finally:
        if done or not any((*folder.glob(f"*{_ENDING}"), *folder.glob(_CHECKED))):
            shutil.rmtree(folder, ignore_errors=True)
            _remove_empty(root, *([root.parent] if created else []))
        lock.release()


def _remove_stale(root: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in root.iterdir():
            if time.time() - folder.stat().st_mtime < STALE:
                continue
            with contextlib.suppress(Timeout, OSError, NotImplementedError), FileLock(folder / _LOCK, blocking=False):
                shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _file_name(key: str, finest: float) -> str:
    return f"{key}{'' if math.isfinite(finest) else '.spectrum'}{_ENDING}"


def _digest(line: str) -> str:
    return hashlib.blake2b(line.encode(), digest_size=8).hexdigest()


def _read_checked(path: Path) -> dict[str, float]:
    """Errors by key; lines that are cut off or damaged are as good as none."""
    found = {}
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            content, _, digest = line.rpartition(" ")
            if digest == _digest(content):
                key, _, error = content.partition(" ")
                found[key] = float.fromhex(error)
    return found


def _write(path: Path, about: Mapping[str, str], analyses: Sequence[Analysis]) -> None:
    shapes = [{name: array.shape for name, array in analysis.items()} for analysis in analyses]
    header = json.dumps({**about, "shapes": shapes}).encode()
    start = -(len(_MAGIC) + 8 + len(header)) % _ALIGNMENT
    pieces: list[Any] = [_MAGIC, (len(header) + start).to_bytes(8, "little"), header, b" " * start]
    pieces += [
        np.ascontiguousarray(array, np.float32).data.cast("B")
        for analysis in analyses
        for array in analysis.values()
        if array.size
    ]
    digest = hashlib.blake2b(digest_size=_SUM)
    descriptor, name = tempfile.mkstemp(".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path, key: str) -> tuple[float, list[Analysis]] | None:
    """For which step analyses were made, and the analyses; None if the file is damaged or of something else.

    Raises:
        OSError, ValueError, KeyError, TypeError: likewise.
    """
    data = mapped(path, path.stat().st_size)
    digest = hashlib.blake2b(data[:-_SUM].data, digest_size=_SUM).digest()
    if data.size < len(_MAGIC) + _SUM or digest != data[-_SUM:].tobytes():
        return None
    about, analyses = _mapped(path)
    return (float.fromhex(about["finest"]), analyses) if about["key"] == key else None


def _mapped(path: Path) -> tuple[dict[str, Any], list[Analysis]]:
    """Header and arrays of a sound file; what is written to the arrays stays in memory."""
    data = mapped(path, path.stat().st_size)
    at = len(_MAGIC) + 8
    end = at + int.from_bytes(data[len(_MAGIC) : at].tobytes(), "little")
    header = json.loads(data[at:end].tobytes())
    analyses: list[Analysis] = []
    for shapes in header["shapes"]:
        analysis: dict[str, Floats] = {}
        for name, shape in shapes.items():
            start, end = end, end + 4 * int(np.prod(shape, dtype=np.int64))
            # Of a part numpy does not say by itself that it is a map.
            analysis[name] = data[start:end].view(np.float32).reshape(shape).view(np.memmap)
        analyses.append(analysis)
    return header, analyses
