"""Continuous batching: which sequences run together, from their prompts to their last tokens.

One thread runs the model. Between two steps it takes in what has come, drops what nobody waits for any more, and reads
a piece of one prompt, so that a long prompt holds nobody up for longer than a piece takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch

from skillpack.serving.prefixes import Prefixes
from skillpack.serving.sampling import Chosen, choose
from skillpack.serving.sequences import BrokenError, Sequence, TooSlowError
from skillpack.serving.slots import STAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skillpack.serving.metrics import Metrics
    from skillpack.serving.stepping import Stepper

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")

_STOPPED: Final = "The server stopped"


class Scheduler:
    """Runs sequences on a model.

    Args:
        stepper: the model.
        rows: most sequences that are continued together.
        queue: most sequences that wait.
        prefix_bytes: of beginnings of prompts that are kept.
        metrics: counts what happens.
    """

    def __init__(self, stepper: Stepper, *, rows: int, queue: int, prefix_bytes: int, metrics: Metrics) -> None:
        self._stepper = stepper
        self._most_rows = rows
        self._most_waiting = queue
        self._metrics = metrics
        self._prefixes = Prefixes(prefix_bytes, stepper.piece)
        self._changed = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._stage: Sequence | None = None
        self._rows: list[Sequence] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="skillpack-scheduler", daemon=True)
        metrics.watch(
            rows=lambda: len(self._rows) + (self._stage is not None),
            waiting=lambda: len(self._waiting),
            prefix_bytes=lambda: self._prefixes.nbytes,
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether sequences make progress."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread; what still runs fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, sequences: list[Sequence]) -> bool:
        """Queue the answers of one request; False if there is no room for them all.

        Raises:
            BrokenError: the thread has ended.
        """
        with self._changed:
            free = self._most_rows - len(self._rows) - (self._stage is not None)
            if self._closing:
                raise BrokenError(_STOPPED)
            if len(self._waiting) + len(sequences) > self._most_waiting + max(free, 0):
                return False
            self._waiting.extend(sequences)
            self._changed.notify()
            return True

    def cancel(self, sequences: Iterable[Sequence]) -> None:
        """Stop sequences that nobody waits for; they deliver nothing more."""
        with self._changed:
            for sequence in sequences:
                sequence.is_cancelled = True
            self._changed.notify()

    def between_steps(self, work: Callable[[], Result]) -> Future[Result]:
        """Do something with the model while no forward pass runs."""
        future: Future[Result] = Future()
        with self._changed:
            if self._closing:
                future.set_exception(BrokenError(_STOPPED))
            else:
                self._tasks.append((future, work))
                self._changed.notify()
        return future

    def _run(self) -> None:
        try:
            while self._take_in():
                self._read_prompt()
                self._continue_rows()
        except BaseException:
            _logger.exception("The scheduler stopped")
            raise
        finally:
            self._fail_all(BrokenError(_STOPPED))

    def _take_in(self) -> bool:
        """Wait for something to do, do what is asked between steps; False when it is time to end."""
        with self._changed:
            while not (self._closing or self._tasks or self._waiting or self._stage or self._rows):
                self._stepper.slots.shrink()
                self._changed.wait()
            if self._closing:
                return False
            tasks, self._tasks = self._tasks, deque()
        # First of all: a task may unload a skill that only dropped sequences used.
        self._drop()
        for future, work in tasks:
            _fulfil(future, work)
        return True

    def _drop(self) -> None:
        """Let go of what was cancelled or has run for too long."""
        now = time.monotonic()
        with self._changed:
            gone = [sequence for sequence in self._waiting if sequence.is_over(now)]
            if gone:
                self._waiting = deque(sequence for sequence in self._waiting if not sequence.is_over(now))
        for sequence in gone:
            self._let_go(sequence)
        if self._stage is not None and self._stage.is_over(now):
            self._leave_stage()
        for row in range(len(self._rows) - 1, -1, -1):
            if self._rows[row].is_over(now):
                self._let_go(self._end_row(row))

    def _read_prompt(self) -> None:
        """Read a piece of a prompt, if there is a row for it."""
        sequence = self._stage or self._next_waiting()
        if sequence is None:
            return
        try:
            if not sequence.read:
                self._begin(sequence)
            with self._metrics.step("prompt", 1):
                logits = self._read_piece(sequence)
            if logits is not None:
                self._start_row(sequence, logits)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others go on
            self._report(error)
            self._leave_stage(error)

    def _next_waiting(self) -> Sequence | None:
        with self._changed:
            if not self._waiting or len(self._rows) >= self._most_rows:
                return None
            self._stage = self._waiting.popleft()
            return self._stage

    def _begin(self, sequence: Sequence) -> None:
        """Take what is known of the prompt's beginning."""
        self._metrics.waited(time.monotonic() - sequence.submitted)
        sequence.keys = self._prefixes.keys(sequence.choice, sequence.prompt[:-1])
        sequence.read = self._stepper.slots.copy_in(0, self._prefixes.find(sequence.keys))
        sequence.cached = sequence.read

    def _read_piece(self, sequence: Sequence) -> torch.Tensor | None:
        """Logits after the prompt, once it is read to its end."""
        start = sequence.read
        sequence.read, logits = self._stepper.read(sequence.choice, sequence.prompt, start)
        number = start // self._stepper.piece
        if number < len(sequence.keys) and self._prefixes.wants(sequence.keys[number]):
            self._prefixes.add(sequence.keys[number], self._stepper.slots.copy_out(start, sequence.read))
        return logits if sequence.read == len(sequence.prompt) else None

    def _start_row(self, sequence: Sequence, logits: torch.Tensor) -> None:
        self._metrics.read(len(sequence.prompt), sequence.cached, sequence.skills)
        self._metrics.generated(sequence.skills)
        if sequence.add(_checked(choose(logits, sequence.sampling, (), sequence.random), logits)):
            self._clear_stage()
            return
        with self._changed:
            self._stepper.start_row(len(self._rows), len(sequence.prompt))
            self._rows.append(sequence)
            self._stage = None

    def _continue_rows(self) -> None:
        """One more token for every row."""
        if not self._rows:
            return
        rows = self._rows
        try:
            with self._metrics.step("tokens", len(rows)):
                logits = self._stepper.next(
                    [row.choice for row in rows], [row.tokens[-1] for row in rows], [row.place for row in rows]
                )
        except Exception as error:  # noqa: BLE001 - it is reported to those who were in the step
            self._report(error)
            for row in range(len(rows) - 1, -1, -1):
                self._let_go(self._end_row(row), error)
            return
        likely = logits.argmax(-1).tolist()
        for row in range(len(rows) - 1, -1, -1):
            self._extend(row, logits[row], likely[row])

    def _extend(self, row: int, logits: torch.Tensor, likely: int) -> None:
        sequence = self._rows[row]
        try:
            plain = sequence.sampling.is_plain
            chosen = Chosen(likely) if plain else choose(logits, sequence.sampling, sequence.tokens, sequence.random)
            self._metrics.generated(sequence.skills)
            if sequence.add(_checked(chosen, logits)):
                self._end_row(row)
        except Exception as error:  # noqa: BLE001 - the other rows go on
            self._report(error)
            self._let_go(self._end_row(row), error)

    def _end_row(self, row: int) -> Sequence:
        """Free the slot of a row; the last row takes its place."""
        with self._changed:
            last = len(self._rows) - 1
            sequence = self._rows[row]
            # The key of the last token is stored by the step that follows it, which there is none of.
            self._stepper.end_row(row, sequence.place + 1, last, self._rows[last].place + 1)
            self._rows[row] = self._rows[last]
            self._rows.pop()
            return sequence

    def _leave_stage(self, error: BaseException | None = None) -> None:
        sequence = self._clear_stage()
        if sequence is not None:
            self._let_go(sequence, error)

    def _clear_stage(self) -> Sequence | None:
        """Free the stage; what was in it has ended or is about to."""
        with self._changed:
            sequence, self._stage = self._stage, None
        if sequence is not None:
            self._stepper.slots.clear(STAGE, len(sequence.prompt))
        return sequence

    def _let_go(self, sequence: Sequence, error: BaseException | None = None) -> None:
        if error is None and not sequence.is_cancelled:
            error = TooSlowError("The answer took longer than this server allows")
        sequence.end(error)

    def _report(self, error: BaseException) -> None:
        self._metrics.failed()
        _logger.error("A forward pass failed", exc_info=error)

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            self._closing = True
            left: list[Any] = [*self._waiting, *([self._stage] if self._stage else []), *self._rows]
            self._waiting.clear()
            self._rows, self._stage = [], None
            tasks, self._tasks = self._tasks, deque()
        for sequence in left:
            sequence.end(error)
        for future, _ in tasks:
            future.set_exception(error)


def _fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
        future.set_exception(error)


def _checked(chosen: Chosen, logits: torch.Tensor) -> Chosen:
    """Return a choice that was made among numbers.

    Raises:
        BrokenError: the model computes none.
    """
    if not bool(torch.isfinite(logits[chosen.token])):
        raise BrokenError("The model computed no finite number")
    return chosen
