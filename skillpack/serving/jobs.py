"""A request between the server's loop and the scheduler's thread: its answers as they come, until the client goes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from skillpack.serving.failures import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from starlette.types import Receive

    from skillpack.serving.metrics import Metrics
    from skillpack.serving.scheduler import Scheduler
    from skillpack.serving.sequences import Sequence, Update

_RETRY_SECONDS = "1"


class GoneError(Exception):
    """The client went away."""


class Job:
    """The answers of one request.

    Args:
        scheduler: writes them.
        metrics: learns when the first token was there.
        finished: called once, when nothing is written any more.
    """

    def __init__(self, scheduler: Scheduler, metrics: Metrics, finished: Callable[[], None]) -> None:
        self.sequences: list[Sequence] = []
        self._scheduler = scheduler
        self._metrics = metrics
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Update | None] = asyncio.Queue()
        self._start = time.perf_counter()
        self._left = 0

    def deliver(self, update: Update) -> None:
        """Take an update; called in the scheduler's thread."""
        # The loop is closed when the server was told twice to stop.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._queue.put_nowait, update)

    def submit(self) -> None:
        """Queue the answers.

        Raises:
            RequestError: too many wait already.
        """
        if not self._scheduler.submit(self.sequences):
            raise RequestError(
                429,
                "Too many requests are waiting; try again later",
                code="rate_limit_exceeded",
                headers={"Retry-After": _RETRY_SECONDS},
            )
        self._left = len(self.sequences)

    async def updates(self, receive: Receive) -> AsyncGenerator[Update, None]:
        """What is new, until all answers are finished.

        Raises:
            GoneError: the client went away.
        """
        watch = asyncio.create_task(self._watch(receive))
        first = True
        try:
            while self._left:
                update = await self._queue.get()
                if update is None:
                    self._metrics.disconnected()
                    raise GoneError
                if first and update.chosen:
                    self._metrics.first_token(time.perf_counter() - self._start)
                    first = False
                self._left -= update.reason is not None or update.error is not None
                yield update
        finally:
            watch.cancel()

    def close(self) -> None:
        """Stop what is still being written, and let go of the skills; whatever happened before."""
        if self._left:
            self._scheduler.cancel(self.sequences)
        self._finished()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._queue.put_nowait(None)
