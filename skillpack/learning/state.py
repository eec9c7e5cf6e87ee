"""What a learner keeps in its folder: which tasks are finished, and their scores. One process at a time uses it.

A task is in it once its skill is in the library and its scores are known; everything before that is done again, or goes
on, when the learner is started again.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock, Timeout

from skillpack.errors import BusyFolderError, DataError, UsageError
from skillpack.learning.report import LearnedTask
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Rows = list[list[float | None]]

_FILE: Final = "progress.json"
_FORMAT: Final = 1


@dataclass
class State:
    """What is finished.

    Attributes:
        base: fingerprint of the base.
        tasks: in the order in which they were learned.
        named: row i, column j: score of task j after task i, with tasks named.
        routed: the same with a router; empty without one.
        routing: shares of prompts that went to their own skill, after the last task.
        router: the method that `routed` is of; None without one, empty if it is not known.
    """

    base: str
    tasks: list[LearnedTask] = field(default_factory=list)
    named: Rows = field(default_factory=list)
    routed: Rows = field(default_factory=list)
    routing: list[float] = field(default_factory=list)
    router: str | None = None

    def extended(self, task: LearnedTask, named: list[float | None], before: list[float | None]) -> State:
        """With one more task: its row, and its column in the earlier rows."""
        rows = [[*row, score] for row, score in zip(self.named, before, strict=True)]
        return replace(self, tasks=[*self.tasks, task], named=[*rows, named])


def read_state(folder: Path, base: str, router: str | None) -> State:
    """What is finished in a folder; nothing if it is new.

    Args:
        folder: where tasks are learned.
        base: fingerprint of the base.
        router: that they are to be measured with; None for none.

    Raises:
        DataError: the file is damaged.
        UsageError: the folder is of another base or router.
    """
    try:
        document: Any = json.loads((folder / _FILE).read_bytes())
    except FileNotFoundError:
        return State(base, router=router)
    except ValueError as error:
        raise _damaged(folder) from error
    try:
        if document.pop("format") != _FORMAT:
            raise UsageError(f"{folder} was written by another version", hint="Choose another folder.")
        document["tasks"] = [LearnedTask(**task) for task in document["tasks"]]
        state = State(**document)
        if "router" not in document:
            state = _of_old_version(state, router)
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder) from error
    if state.base != base:
        raise UsageError(f"{folder} is of tasks that were learned on another base", hint="Choose another folder.")
    if state.tasks and state.router != router:
        # Rows of a matrix that are of different routers could not be compared.
        raise _other_router(folder, state.router)
    return replace(state, router=router)


def write_state(folder: Path, state: State) -> None:
    """Note what is finished, in one durable step."""
    disk.replace(folder / _FILE, [(json.dumps({"format": _FORMAT, **asdict(state)}, indent=1) + "\n").encode()])


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within this, no other process learns in the folder.

    Raises:
        BusyFolderError: one does.
    """
    disk.make_directory(folder)
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise BusyFolderError(f"another process is learning in {folder}", hint="Wait for it to end.") from error


def _other_router(folder: Path, router: str | None) -> UsageError:
    known, asked = "no router", "no --route"
    if router is not None:
        known = f"the router {router}" if router else "a router"
        asked = f"--route {router or 'METHOD'}"
    return UsageError(
        f"the tasks in {folder} were measured with {known}", hint=f"Go on with {asked}, or choose another folder."
    )


def _of_old_version(state: State, router: str | None) -> State:
    """With a router, which was not kept: only rows say that there was one, and the one asked for is taken for it.

    Rows of some tasks only come from a router that was added or left out on the way. Their figures mean nothing.
    """
    if len(state.routed) != len(state.tasks):
        return replace(state, routed=[], routing=[], router=None)
    return replace(state, router=router or "")


def _damaged(folder: Path) -> DataError:
    return DataError(f"{folder / _FILE} is damaged", hint="Move it away; the skills are in the library.")
