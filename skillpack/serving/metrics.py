"""What is counted and measured, for Prometheus."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
BASE: Final = "(none)"
"""Label of answers without skills; no skill can have this name."""


class Metrics:
    """The measurements of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "skillpack_requests", "Requests that were answered.", ["endpoint", "status"], registry=registry
        )
        self._duration = Histogram(
            "skillpack_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "skillpack_first_token_seconds",
            "From a request to the first token of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._queued = Histogram(
            "skillpack_queue_seconds", "How long answers waited for a slot.", buckets=_SECONDS, registry=registry
        )
        self._steps = Histogram(
            "skillpack_step_seconds", "Forward passes.", ["kind"], buckets=_SECONDS, registry=registry
        )
        self._batch = Histogram(
            "skillpack_step_rows", "Rows of the forward passes that generate.", buckets=_ROWS, registry=registry
        )
        self._prompt = Counter("skillpack_prompt_tokens", "Tokens of prompts.", ["skill"], registry=registry)
        self._cached = Counter(
            "skillpack_prompt_tokens_cached", "Tokens of prompts that were known.", registry=registry
        )
        self._generated = Counter("skillpack_generated_tokens", "Tokens of answers.", ["skill"], registry=registry)
        self._failures = Counter("skillpack_step_failures", "Forward passes that failed.", registry=registry)
        self._disconnected = Counter("skillpack_disconnects", "Requests whose client went away.", registry=registry)

    def watch(self, **gauges: Callable[[], float]) -> None:
        """Report values that are looked up when somebody asks: ``rows`` is reported as ``skillpack_rows``."""
        meanings = {
            "slots": "Answers that can be written at the same time.",
            "rows": "Answers that are being written.",
            "waiting": "Answers that wait for a slot.",
            "prefix_bytes": "Bytes of beginnings of prompts that are kept.",
            "skills": "Skills that are loaded and offered.",
            "retired": "Skills that are no longer offered, and loaded for answers that began with them.",
        }
        for name, value in gauges.items():
            Gauge(f"skillpack_{name}", meanings[name], registry=self._registry).set_function(value)

    def render(self) -> bytes:
        """All of it in the text format of Prometheus."""
        return generate_latest(self._registry)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(endpoint, str(status)).inc()
        self._duration.labels(endpoint).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """The first token of an answer is there."""
        self._first.observe(seconds)

    def waited(self, seconds: float) -> None:
        """An answer has left the queue."""
        self._queued.observe(seconds)

    def read(self, prompt: int, cached: int, skills: tuple[str, ...]) -> None:
        """A prompt was read, of whose tokens some were known."""
        for skill in skills or ("",):
            self._prompt.labels(skill or BASE).inc(prompt)
        self._cached.inc(cached)

    def generated(self, skills: tuple[str, ...]) -> None:
        """A token was generated; one with several skills counts for each."""
        for skill in skills or ("",):
            self._generated.labels(skill or BASE).inc()

    def failed(self) -> None:
        """A forward pass failed."""
        self._failures.inc()

    def disconnected(self) -> None:
        """A client went away before its answer was finished."""
        self._disconnected.inc()

    @contextmanager
    def step(self, kind: str, rows: int) -> Iterator[None]:
        """Measure a forward pass."""
        start = time.perf_counter()
        yield
        self._steps.labels(kind).observe(time.perf_counter() - start)
        if kind == "tokens":
            self._batch.observe(rows)
