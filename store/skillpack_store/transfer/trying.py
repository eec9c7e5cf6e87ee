"""Trying again after a connection broke, and stopping when somebody asks for it."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, TypeVar

from skillpack_store.errors import RefusedError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Meter", "Tries", "in_parallel", "silent", "trying"]

T = TypeVar("T")

TRIES = 5
FIRST_PAUSE = 0.2  # seconds
LONGEST_PAUSE = 10.0  # seconds


class Tries:
    """Counts failures in a row and waits after each, longer and longer."""

    def __init__(self) -> None:
        self._failed = 0

    def failed(self, error: RemoteError, *, progressed: bool = False) -> None:
        """Wait before the next try.

        Args:
            error: What went wrong.
            progressed: Something arrived before, so this is the first failure of a new row.

        Raises:
            RemoteError: ``error``, if there is no use in another try.
        """
        if isinstance(error, RefusedError):
            raise error
        self._failed = 1 if progressed else self._failed + 1
        if self._failed >= TRIES:
            raise error
        longest = min(FIRST_PAUSE * 2 ** (self._failed - 1), LONGEST_PAUSE)
        # Spread out, so that clients that failed together do not come back together.
        time.sleep(longest * (0.5 + random.random() / 2))  # noqa: S311


def trying(attempt: Callable[[], T]) -> T:
    """Return what ``attempt`` returns, calling it again while the connection breaks."""
    tries = Tries()
    while True:
        try:
            return attempt()
        except RemoteError as error:  # noqa: PERF203  the loop is about the exception
            tries.failed(error)


def silent(done: int, total: int, what: str) -> None:
    """Report nothing."""


class Meter:
    """Adds up the bytes of several threads, reports them, and stops the threads.

    Args:
        progress: Called with bytes done, bytes in total and what is being done; by one thread at a time.
        what: What is being done, in a few words.
        total: Bytes in total; 0 if not known.
    """

    def __init__(self, progress: Callable[[int, int, str], None], what: str, total: int) -> None:
        self._progress, self._what, self._total, self._done = progress, what, total, 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        progress(0, total, what)

    def advance(self, amount: int) -> None:
        """Report ``amount`` more bytes as done (or fewer, after a failed try).

        Raises:
            InterruptedError: ``stop`` was called.
        """
        if self._stopped.is_set():
            raise InterruptedError("another part of the transfer failed")
        with self._lock:
            self._done += amount
            self._progress(min(self._done, self._total), self._total, self._what)

    def stop(self) -> None:
        """Make every other thread end at its next step."""
        self._stopped.set()


def in_parallel(work: Callable[[T], None], items: Iterable[T], jobs: int, meter: Meter) -> None:
    """Call ``work`` with each item, ``jobs`` at a time; after the first failure the others are stopped.

    Raises:
        Exception: What the first failing call raised.
    """
    with ThreadPoolExecutor(jobs, thread_name_prefix="transfer") as pool:
        try:
            futures = [pool.submit(work, item) for item in items]
            for future in as_completed(futures):
                future.result()
        except BaseException:
            meter.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
