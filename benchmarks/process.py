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
    from collections.abc import Callable, Iterator, Mapping, Sequence

COMMAND = str(Path(sys.executable).with_name("skillpack"))
"""The command that is installed beside this interpreter."""
_EVERY = 0.02


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: from start to end.
        anonymous: most bytes of anonymous memory (RssAnon) that it and its children held at one time.
        said: its standard output.
        killed: it was killed before its end.
    """

    seconds: float
    anonymous: int
    said: str
    killed: bool


def run(
    command: Sequence[str], environment: Mapping[str, str] | None = None, kill: Callable[[], bool] = lambda: False
) -> Usage:
    """Run a command to its end, looking at its memory every 20 ms.

    Args:
        command: program and arguments.
        environment: variables to set on top of this process's.
        kill: asked as often; where it is true the command gets SIGKILL.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        text=True,
    ) as process:
        peak, done = [0], threading.Event()
        killed = threading.Event()

        def watch() -> None:
            while not done.wait(_EVERY):
                peak[0] = max(peak[0], sum(_anonymous(member) for member in _family(process.pid)))
                if kill():
                    killed.set()
                    process.kill()
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            said, complaints = process.communicate()
            seconds = time.perf_counter() - started
        finally:
            done.set()
            watcher.join()
    if process.returncode and not killed.is_set():
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}:\n{said}{complaints}")
    return Usage(seconds, peak[0], said, killed.is_set())


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
