"""Workers on an existing Ray cluster.

Threads of this process read the deltas, send them and write down what comes back; one task of the cluster at a time
works for each of them. A task depends on nothing but its arguments, so that one which is lost with its machine is done
again elsewhere.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from skillpack.errors import SkillPackError, UsageError
from skillpack.packing.workers import LARGE, one_torch_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_RETRIES: Final = 5
"""How often a task is done again whose machine or process was lost."""
_PATIENCE: Final = 10.0
"""Seconds to wait for an answer of the cluster's address."""
_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
"""With what a client begins to talk to any gRPC server (RFC 9113, section 3.4), as Ray's are."""
_SETTINGS: Final = b"\x04"
"""Type of the frame with which such a server begins."""
_TLS_ALERT: Final = b"\x15"
"""With what it begins if it wants to talk encrypted only."""
_MOST: Final = 256
"""Tasks in flight at most."""
_HINT: Final = "Give HOST:PORT of a running cluster of which this machine is a node, ray://HOST:PORT, or auto."
_EXTRA: Final = "Install it with: pip install 'skillpack[ray]'"
_NOT_IMPORTED: Final = ("ModuleNotFoundError", "ImportError", "failed to import")

T = TypeVar("T")
R = TypeVar("R")


class Cluster:
    """The machines of a cluster, while this process is connected; see `skillpack.packing.workers.Workers`."""

    def __init__(self, ray: Any, device: str) -> None:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        cores = sum(node["Resources"].get("CPU", 0) for node in nodes)
        shared = sum(node["Resources"].get("object_store_memory", 0) for node in nodes) / max(1, len(nodes))
        self._ray = ray
        self._resources = {"num_cpus": 1, "num_gpus": int(device.startswith("cuda"))}
        self._tasks = min(_MOST, 2 * max(1, int(cores)))
        # What is sent waits in the shared memory of this machine, in fp32.
        self._elements = max(LARGE, int(shared / 4 / 4))
        self._ended = threading.Event()

    def for_each(self, work: Callable[[T], R], items: Sequence[T], elements: Callable[[T], int]) -> Iterator[R]:
        """See `Workers`; a bounded number of tensors and of elements is under way at a time."""
        waiting: deque[tuple[int, Any]] = deque()
        with one_torch_thread(), ThreadPoolExecutor(self._tasks) as pool:
            try:
                for item in items:
                    size, busy = elements(item), sum(size for size, _ in waiting)
                    while waiting and (len(waiting) >= self._tasks or busy + size > self._elements):
                        done, future = waiting.popleft()
                        busy -= done
                        yield future.result()
                    waiting.append((size, pool.submit(work, item)))
                while waiting:
                    yield waiting.popleft()[1].result()
            except BaseException:
                self._ended.set()
                pool.shutdown(cancel_futures=True)
                raise

    def run(self, function: Callable[..., R], *arguments: Any) -> R:
        """See `Workers`.

        Raises:
            SkillPackError: the machines that worked on it were lost, again and again, or lack SkillPack.
        """
        ray = self._ray
        task = ray.remote(max_retries=_RETRIES, **self._resources)(_with_one_thread)
        result = task.remote(function, *arguments)
        try:
            return self._waited(result)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ImportError) or any(sign in str(cause) for sign in _NOT_IMPORTED):
                raise SkillPackError(
                    f"the cluster's machines cannot import what works: {str(cause).strip().splitlines()[-1]}",
                    hint="Install the same version of skillpack in the Python environment of its workers.",
                ) from error
            if isinstance(cause, Exception) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from error
            raise
        except ray.exceptions.RayError as error:
            reason = str(error).partition("\n")[0]
            raise SkillPackError(
                f"the cluster lost the same work {_RETRIES + 1} times: {reason}",
                hint="Check its machines, memory above all; what was done is kept, and the same command goes on there.",
            ) from error

    def _waited(self, result: Any) -> Any:
        """Wait for a task, unless nobody does any more."""
        while not self._ended.is_set():
            if self._ray.wait([result], timeout=0.5)[0]:
                return self._ray.get(result)
        self._ray.cancel(result, force=True)
        raise CancelledError


@contextmanager
def connected(address: str, device: str = "cpu") -> Iterator[Cluster]:
    """Connect to a Ray cluster; within a block where this process is connected already, that connection is used.

    Args:
        address: ``HOST:PORT`` of its head, if this machine is one of its nodes; ``ray://HOST:PORT`` from elsewhere;
            or ``auto`` for the one that runs on this machine.
        device: torch device that its tasks will use; each has a GPU for itself if that is "cuda".

    Raises:
        UsageError: Ray is not installed, the cluster does not answer, or has no worker of that kind.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("Ray is not installed", hint=_EXTRA) from error
    own = not ray.is_initialized()
    if own:
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(f"the Ray cluster at {address} cannot be used: {reason}", hint=_HINT) from error
    try:
        cluster = Cluster(ray, device)
        missing = [name for name in ("CPU", *(["GPU"] * device.startswith("cuda"))) if not _total(ray, name)]
        if missing:
            raise UsageError(f"the Ray cluster at {address} has no {missing[0]}", hint="Start a worker node first.")
        yield cluster
    finally:
        if own:
            ray.shutdown()


def _total(ray: Any, resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0))


def _check_answers(address: str) -> None:
    """Ray itself waits for minutes for an address where nobody, or somebody else, is."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address != "auto":
            raise UsageError(f"{address!r} is no address of a Ray cluster", hint=_HINT)
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE) as connection:
            connection.sendall(_GREETING)
            answer = connection.recv(9)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"the Ray cluster at {address} does not answer: {error}", hint=_HINT) from error
    if answer[3:4] != _SETTINGS and answer[:1] != _TLS_ALERT:
        raise UsageError(f"the Ray cluster at {address} does not answer: something else is there", hint=_HINT)


def _with_one_thread(function: Callable[..., R], *arguments: Any) -> R:
    with one_torch_thread():
        return function(*arguments)
