"""A progress bar on stderr, for people at a terminal who have to wait."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID
    from typing_extensions import Self

PATIENCE: Final = 2.0
"""Seconds of work without a bar."""


class Bar:
    """A `skillpack.progress.Progress` that shows bytes and time left; use it as a context."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._start = time.monotonic()
        self._bars: Progress | None = None
        self._what = ""
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        """See `skillpack.progress.Progress`."""
        if not self._shown or time.monotonic() - self._start < PATIENCE:
            return
        if self._bars is None:
            self._bars = _started_bars()
        if self._task is not None and self._what == what:
            self._bars.update(self._task, completed=done)
            return
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._what = what
        self._task = self._bars.add_task(what, total=total or None, completed=done)


def _started_bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(file=sys.stderr),
        transient=True,
    )
    bars.start()
    return bars
