"""Time and memory of a whole command, as a user would see them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COMMAND = str(Path(sys.executable).with_name("skillpack"))
"""The command that is installed beside this interpreter."""
_EVERY = 0.02


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: from start to end.
        anonymous: most bytes of anonymous memory (RssAnon) that it and its children held at one time.
    """

    seconds: float
    anonymous: int


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end, looking at its memory every 20 ms.

    Args:
        command: program and arguments.
        environment: variables to set on top of this process's.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environment or {})},
        text=True,
    ) as process:
        peak, done = [0], threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, done, peak))
        watcher.start()
        try:
            said, _ = process.communicate()
            seconds = time.perf_counter() - started
        finally:
            done.set()
            watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}:\n{said}")
    return Usage(seconds, peak[0])


def _watch(pid: int, done: threading.Event, peak: list[int]) -> None:
    while not done.wait(_EVERY):
        peak[0] = max(peak[0], sum(_anonymous(member) for member in _family(pid)))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _read(children).split():
            yield from _family(int(child))


def _anonymous(pid: int) -> int:
    for line in _read(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        # The process has ended meanwhile.
        return ""
