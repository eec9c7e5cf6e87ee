"""Work on many tensors at once, with results that do not depend on how many workers there are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from skillpack.packing.spool import give_back

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LARGE: Final = 8 << 20
"""Elements from which a tensor is worked on alone, so that memory is bounded by the largest tensor."""

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """Those who work: threads of this process, or machines of a cluster."""

    def for_each(self, work: Callable[[T], R], items: Sequence[T], elements: Callable[[T], int]) -> Iterator[R]:
        """Apply `work` to every item, in threads of this process, and yield the results in the order of the items.

        Args:
            work: what is costly in it goes through `run`, or is in numpy and torch, which release the interpreter's
                lock.
            items: what to work on.
            elements: how many elements an item has; what is in memory at a time is bounded by their sum.
        """

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """Call a function of a module where the workers are, with one torch thread; for use within `work`."""


@dataclass(frozen=True)
class Threads:
    """Threads of this process.

    Attributes:
        count: how many; by default as many as there are cores for this process.
    """

    count: int | None = None

    def for_each(self, work: Callable[[T], R], items: Sequence[T], elements: Callable[[T], int]) -> Iterator[R]:
        """See `Workers`; large items run alone."""
        workers = self.count or _cores()
        with one_torch_thread(), ThreadPoolExecutor(workers) as pool:
            first = 0
            while first < len(items):
                if elements(items[first]) >= LARGE:
                    give_back()
                    yield work(items[first])
                    first += 1
                    continue
                end = first
                while end < len(items) and end - first < 4 * workers and elements(items[end]) < LARGE:
                    end += 1
                yield from pool.map(work, items[first:end])
                first = end

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """See `Workers`; the calling thread does it."""
        return function(*arguments)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Sums inside one torch operation depend on its number of threads; so it gets one, and tensors run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
