"""A stream of tasks, each of which becomes a skill: train, pack, measure, commit, route."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import UsageError
from skillpack.fingerprint import fingerprint
from skillpack.learning.goals import pack_goal
from skillpack.learning.measuring import Measuring
from skillpack.learning.report import NAMES, LearnedTask, LearnReport, Transfer, write_report
from skillpack.learning.routing import Routing
from skillpack.learning.staging import Staged, staging
from skillpack.learning.state import alone, read_state, write_state
from skillpack.learning.tasks import Task, read_tasks
from skillpack.learning.training import Training, fine_tune
from skillpack.library import commit_skills
from skillpack.packing.drawing import check_drawing
from skillpack.packing.opening import checkpoint_bytes
from skillpack.progress import Progress, silent
from skillpack.skill import open_skill
from skillpack.summaries import open_existing, open_or_create
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skillpack.learning.state import State
    from skillpack.summaries import StoreLike

    Train = Callable[[str | Path, Task], str | Path]

_OUTCOMES: Final = "outcomes"
_WORK: Final = "unfinished"


class ContinualLearner:
    """Learns one task after another, each from the frozen base, and forgets none.

    A task is learned as a fine-tune of the base, packed, measured, and only then committed to the library, so that one
    that fails leaves the library as it was. What is finished is kept in a folder, and a learner that was killed goes on
    there.

    Example:
        >>> learner = ContinualLearner("org/base", "learned")  # doctest: +SKIP
        >>> learner.learn(Task("math", "train.jsonl", "held_out.jsonl", "number"))  # doctest: +SKIP
        >>> learner.report().named.backward_transfer  # doctest: +SKIP
    """

    def __init__(
        self,
        base: str | Path,
        folder: str | Path,
        *,
        training: Training | None = None,
        train: Train | None = None,
        size: int | None = None,
        share: float | None = None,
        quality: float | None = None,
        calibrate: int = 0,
        router: str | None = None,
        again: bool = False,
        plot: bool = True,
        store: StoreLike = None,
        branch: str = "main",
        author: str | None = None,
        progress: Progress = silent,
    ) -> None:
        """Prepare to learn.

        Args:
            base: model folder or Hub id; it is only read.
            folder: for ``learn.json``, pictures, and what is known so far; it is made if it is not there.
            training: how tasks are learned.
            train: called with the base and a `Task` in the place of `training`; returns the folder of a fine-tune or of
                a PEFT LoRA adapter, which is left alone.
            size: bytes that a skill may take.
            share: the same in relation to the base's tensors; 0.02 if none of the three is given.
            quality: as for `skillpack.pack`.
            calibrate: pack with so many of the task's training texts, see `skillpack.pack`: closer to the fine-tune at
                the same size, and slower.
            router: a method of `skillpack.open_router`, to measure also without naming tasks; by default none.
            again: after each task, measure all skills anew, from their bytes in the store. Otherwise what was measured
                with a skill holds for as long as its digest is the same.
            plot: draw pictures of the scores.
            store: where skills go; by default the user's own.
            branch: branch of the library.
            author: who, for the history; by default the user's login.
            progress: called during the work.

        Raises:
            CheckpointError: the base cannot be opened.
            UsageError: more than one size is given, the folder is of another base or router, or matplotlib is not
                installed.
        """
        if calibrate < 0:
            raise UsageError(f"{calibrate} texts cannot be read", hint="0 packs without texts.")
        if plot:
            check_drawing()
        self._base, self._folder = base, Path(folder)
        checkpoint = open_checkpoint(base)
        self._base_bytes = checkpoint_bytes(checkpoint)
        self._goal = pack_goal(base, size, share, quality)
        self._calibrate = calibrate
        self._training, self._train = training or Training(), train
        self._store, self._branch, self._author = store, branch, author
        self._again, self._plot, self._progress = again, plot, progress
        self._fingerprint = fingerprint({name: checkpoint.read(name).digest() for name in checkpoint.tensors})
        self._state = read_state(self._folder, self._fingerprint, router)
        self._resumed = len(self._state.tasks)
        self._tasks: dict[str, Task] = {}
        self._measuring = Measuring(base, self._folder / _OUTCOMES, progress)
        self._routing = None if router is None else Routing(base, router, open_or_create(store))

    @property
    def names(self) -> list[str]:
        """Names of the tasks that were learned, in their order."""
        return [task.name for task in self._state.tasks]

    def learn(self, task: Task) -> LearnedTask:
        """Learn a task, unless that is done: its skill is in the library then, and the report is written.

        Args:
            task: what to learn. With a router or `again`, all earlier tasks must have been given to this learner too,
                since their held-out texts are measured again.

        Raises:
            CheckpointError: the base or what was trained cannot be opened.
            DataError: the task's texts cannot be used.
            UsageError: a task of this name was learned from other texts or in another way.
            BusyFolderError: another process is learning in the folder.
        """
        with alone(self._folder):
            self._state = read_state(self._folder, self._fingerprint, self._state.router)
            key = self._key(task)
            known = next((learned for learned in self._state.tasks if learned.name == task.name), None)
            if known is not None and known.key != key:
                raise UsageError(
                    f"{task.name} was learned in {self._folder} from other texts or in another way",
                    hint="Choose another folder, or another name for the task.",
                )
            self._tasks[task.name] = task
            if known is None:
                known = self._learn(task, key)
                write_report(self.report(), plot=self._plot)
            return known

    def report(self) -> LearnReport:
        """What was learned so far."""
        state = self._state
        base = tuple(task.base for task in state.tasks)
        routed = Transfer.of(_frozen(state.routed), base) if state.routed else None
        return LearnReport(
            tasks=tuple(state.tasks),
            named=Transfer.of(_frozen(state.named), base),
            routed=routed,
            routing=tuple(state.routing),
            router=state.router if routed else None,
            written=tuple(self._folder / name for name in (NAMES if self._plot else NAMES[:1])),
            resumed=self._resumed,
        )

    def _learn(self, task: Task, key: str) -> LearnedTask:
        _ = task.training, task.measured
        if (self._routing or self._again) and (missing := [name for name in self.names if name not in self._tasks]):
            raise UsageError(
                f"the texts of {', '.join(missing)} are not known, which are to be measured again",
                hint="Give the learner the earlier tasks first; what is finished is not done again.",
            )
        base_score = self._measuring.of_base(task)
        work = self._folder / _WORK / task.name
        tuned = self._tuned(task, work, key)
        with staging(self._store, self._folder) as stage:
            texts = {"calibration": task.training[: self._calibrate]} if self._calibrate else {}
            staged = stage.pack(self._base, tuned, task.name, {**self._goal, **texts}, self._progress)
            learned = self._measured(task, key, staged, base_score, self._measuring.of_folder(task, tuned))
            state = self._state.extended(learned, *self._named(task, staged, base_score))
            if self._routing is not None:
                self._route(state, task, staged)
            self._commit(staged)
        resolved = open_existing(self._store).resolve(f"{task.name}@{staged.skill.digest}", self._branch)
        learned = LearnedTask(**{**asdict(learned), "version": resolved.version})
        state.tasks[-1] = learned
        write_state(self._folder, state)
        self._state = state
        if work.exists():
            disk.remove_tree(work)
        return learned

    def _tuned(self, task: Task, work: Path, key: str) -> Path:
        """The folder of the fine-tune; one that an interrupted run has finished is taken as it is."""
        if self._train is not None:
            return Path(self._train(self._base, task))
        done = work / key[:24]
        if not done.is_dir():
            if work.exists():
                disk.remove_tree(work)
            disk.make_directory(work)
            part = work / "part"
            fine_tune(
                self._base,
                task.training,
                part,
                self._training,
                classes=task.measure == "label",
                progress=self._progress,
            )
            disk.rename(part, done)
        return done

    def _measured(self, task: Task, key: str, staged: Staged, base: float | None, tuned: float) -> LearnedTask:
        return LearnedTask(
            name=task.name,
            version=None,
            digest=staged.skill.digest,
            size=staged.size,
            share=staged.size / self._base_bytes,
            measure=task.measure,
            samples=len(task.measured),
            base=base,
            tuned=tuned,
            key=key,
        )

    def _named(self, task: Task, staged: Staged, base: float | None) -> tuple[list[float | None], list[float | None]]:
        """The new row of scores with tasks named, and the new column of the rows before: no skill, so the base."""
        own = self._measuring.of_skill(task, staged.skill, staged.repository, again=self._again)
        if not self._again:
            earlier: list[float | None] = [] if not self._state.named else list(self._state.named[-1])
            return [*earlier, own], [base] * len(self._state.tasks)
        repository = open_existing(self._store)
        opened = [open_skill(repository, each.digest, each.name) for each in self._state.tasks]
        scores: list[float | None] = [
            self._measuring.of_skill(self._tasks[skill.name], skill, repository, again=True) for skill in opened
        ]
        return [*scores, own], [base] * len(self._state.tasks)

    def _route(self, state: State, task: Task, staged: Staged) -> None:
        """Fill in what the router makes of the new task, before and after it knows its skill, and of all others."""
        assert self._routing is not None
        repository = staged.repository
        for each in state.tasks[:-1]:
            self._routing.add(open_skill(repository, each.digest, each.name))
        before = self._routed(task, "")[0] if state.tasks[:-1] else None
        self._routing.teach(staged.skill, task, staged.branch)
        found = [self._routed(self._tasks[each.name], each.digest) for each in state.tasks]
        rows = [[*row, None] for row in state.routed]
        if rows:
            rows[-1][-1] = before
        state.routed = [*rows, [score for score, _ in found]]
        state.routing = [right for _, right in found]

    def _routed(self, task: Task, own: str) -> tuple[float, float]:
        """Score of a task whose prompts are routed, and the share of them that go to its own skill."""
        assert self._routing is not None
        choices = self._routing.choices(task)
        right = sum(choice is not None and choice[0].digest == own for choice in choices)
        return self._measuring.routed(task, choices, own), right / len(choices)

    def _commit(self, staged: Staged) -> None:
        repository = staged.repository
        commit_skills(
            repository,
            {staged.skill.name: staged.descriptor},
            branch=self._branch,
            author=self._author,
            message=f"Learn {staged.skill.name}",
        )

    def _key(self, task: Task) -> str:
        training = "a function" if self._train is not None else asdict(self._training)
        decisive: Any = [task.key, training, self._goal, *([self._calibrate] if self._calibrate else [])]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def learn(
    tasks: str | Path | Iterable[Task],
    base: str | Path,
    folder: str | Path,
    **options: Any,
) -> LearnReport:
    """Learn tasks one after another, each from the frozen base, as skills of a library.

    What was finished by an earlier run in the same folder is not done again; tasks can be added at the end of the list.

    Args:
        tasks: a file or a folder that lists them, as `skillpack.learning.read_tasks` reads it; or tasks.
        base: model folder or Hub id.
        folder: where the report goes: ``learn.json``, ``learn.png`` and ``learn.svg``.
        options: as `ContinualLearner` takes them.

    Raises:
        see `ContinualLearner` and `ContinualLearner.learn`.

    Example:
        >>> learn("tasks.yaml", "org/base", "learned", router="prototype").routed.average  # doctest: +SKIP
    """
    listed = read_tasks(tasks)
    learner = ContinualLearner(base, folder, **options)
    for task in listed:
        learner.learn(task)
    report = learner.report()
    write_report(report, plot=options.get("plot", True))
    return report


def _frozen(rows: list[list[float | None]]) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(row) for row in rows)
