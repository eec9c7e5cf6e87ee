"""Work on many tensors at once, with results that do not depend on how many workers there are."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LARGE: Final = 16 << 20
"""Elements from which a tensor is worked on alone, so that memory is bounded by the largest tensor."""

T = TypeVar("T")
R = TypeVar("R")


def for_each(work: Callable[[T], R], items: Sequence[T], elements: Callable[[T], int]) -> Iterator[R]:
    """Apply `work` to every item in threads and yield the results in the order of the items.

    Args:
        work: spends its time in numpy and torch, which release the interpreter's lock.
        items: what to work on.
        elements: how many elements an item has; large ones run alone.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with _one_torch_thread(), ThreadPoolExecutor(workers) as pool:
        first = 0
        while first < len(items):
            if elements(items[first]) >= LARGE:
                yield work(items[first])
                first += 1
                continue
            end = first
            while end < len(items) and end - first < 4 * workers and elements(items[end]) < LARGE:
                end += 1
            yield from pool.map(work, items[first:end])
            first = end


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Sums inside one torch operation depend on its number of threads; so it gets one, and tensors run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
