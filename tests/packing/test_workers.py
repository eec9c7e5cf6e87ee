"""Work side by side: results in order, large tensors alone, and torch as it was afterwards."""

import threading

import pytest
import torch

from skillpack.packing import workers
from skillpack.packing.workers import Threads


@pytest.fixture(params=[1, 2, 5])
def cores(request, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(request.param)))
    return request.param


def test_results_come_in_order(cores):
    assert list(Threads().for_each(lambda item: item * 2, range(50), lambda item: 1)) == list(range(0, 100, 2))
    assert list(Threads().for_each(str, [], lambda item: 1)) == []


def test_large_tensors_run_alone(cores):
    running, most = set(), {}
    lock = threading.Lock()
    sizes = [1, 1, workers.LARGE, 1, workers.LARGE + 1, workers.LARGE, 1, 1]

    def work(item):
        with lock:
            running.add(item)
            for other in running:
                most[other] = max(most.get(other, 0), len(running))
        threading.Event().wait(0.02)
        with lock:
            running.discard(item)
        return item

    assert list(Threads().for_each(work, range(8), lambda item: sizes[item])) == list(range(8))
    assert [most[item] for item in (2, 4, 5)] == [1, 1, 1]
    assert max(most.values()) == (1 if cores == 1 else 2)


def test_an_error_is_the_callers(cores):
    def work(item):
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(Threads().for_each(work, range(10), lambda item: 1))


def test_torch_has_one_thread_meanwhile_and_its_own_number_afterwards(cores):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert set(Threads().for_each(lambda item: torch.get_num_threads(), range(6), lambda item: 1)) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
