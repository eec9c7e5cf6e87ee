"""Measuring tasks on the base with a skill installed; what was measured once is kept for as long as it holds.

A skill's digest and the base decide every byte of the installed model, and a task's key every held-out sample, so that
an outcome belongs to these three and never changes.
"""

from __future__ import annotations

import json
import math
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skillpack.errors import CheckpointError, DataError, UnsupportedCheckpointError
from skillpack.learning.scores import WRONG, Outcome, measure_samples, score
from skillpack.live.models import has_tokenizer, open_model, open_tokenizer
from skillpack.live.whole import whole_folder
from skillpack.progress import Progress, silent
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.learning.tasks import Task
    from skillpack.skill import Skill
    from skillpack_store import Repository

_BASE = "base"


class Measuring:
    """Measures tasks.

    Args:
        base: folder or Hub id.
        cache: folder for outcomes.
        progress: called during the work.
    """

    def __init__(self, base: str | Path, cache: Path, progress: Progress = silent) -> None:
        self._base, self._cache, self._progress = base, cache, progress

    def of_base(self, task: Task) -> float | None:
        """Score of the base alone; None if it does not do this kind of task."""
        try:
            return score(self._outcomes(task, _BASE, range(len(task.measured)), None), task.measure)
        except (CheckpointError, DataError):
            _ = task.measured  # What is wrong with the task itself is no matter of the base.
            return None

    def of_folder(self, task: Task, tuned: str | Path) -> float:
        """Score of a fine-tune.

        Args:
            task: what is measured.
            tuned: a model folder, or that of a PEFT adapter.

        Raises:
            CheckpointError: it cannot be opened.
            DataError: it cannot do the task.
        """
        with tempfile.TemporaryDirectory(prefix="skillpack-learn-") as room:
            folder = whole_folder(tuned, self._base, Path(room) / "tuned")
            return score(self._measured(task, folder, task.measured), task.measure)

    def of_skill(self, task: Task, skill: Skill, repository: Repository, *, again: bool = False) -> float:
        """Score of the base with a skill.

        Args:
            task: what is measured.
            skill: opened.
            repository: where it is.
            again: measure even what is known.
        """
        places = range(len(task.measured))
        return score(self._outcomes(task, skill.digest, places, (skill, repository), again=again), task.measure)

    def routed(self, task: Task, choices: Sequence[tuple[Skill, Repository] | None], own: str) -> float:
        """Score where each held-out sample has a skill of its own.

        A sample of a classifier that does not go to the task's skill is wrong: the classes of another mean others.

        Args:
            task: what is measured.
            choices: for each held-out sample a skill and where it is; None is the base.
            own: digest of the task's own skill; empty if it is not learned yet.
        """
        digests = [_BASE if choice is None else choice[0].digest for choice in choices]
        opened = {choice[0].digest: choice for choice in choices if choice is not None}
        found: dict[int, Outcome] = {}
        for digest in sorted(set(digests)):
            places = [place for place, other in enumerate(digests) if other == digest]
            if task.measure == "label" and digest != own:
                found |= dict.fromkeys(places, WRONG)
                continue
            try:
                outcomes = self._outcomes(task, digest, places, opened.get(digest))
            except UnsupportedCheckpointError:
                # Another kind of model gives no answer at all.
                outcomes = [Outcome(math.inf, 1) if task.measure == "likelihood" else WRONG] * len(places)
            found |= dict(zip(places, outcomes, strict=True))
        return score(found.values(), task.measure)

    def _outcomes(
        self,
        task: Task,
        digest: str,
        places: Sequence[int],
        skill: tuple[Skill, Repository] | None,
        *,
        again: bool = False,
    ) -> list[Outcome]:
        file = self._cache / f"{digest.rpartition(':')[2][:24]}-{task.key[:24]}.json"
        known: dict[int, Outcome] = {} if again else _read(file)
        missing = [place for place in places if place not in known]
        if missing:
            samples = [task.measured[place] for place in missing]
            with self._installed(skill) as folder:
                known |= dict(zip(missing, self._measured(task, folder, samples), strict=True))
            disk.make_directory(file.parent)
            disk.replace(file, [json.dumps({str(place): known[place] for place in sorted(known)}).encode()])
        return [known[place] for place in places]

    def _measured(self, task: Task, folder: str | Path, samples: Sequence[Any]) -> list[Outcome]:
        tokenizer = open_tokenizer(folder if has_tokenizer(Path(folder)) else self._base)
        return measure_samples(open_model(folder), tokenizer, samples, task.measure, progress=self._progress)

    @contextmanager
    def _installed(self, skill: tuple[Skill, Repository] | None) -> Iterator[str | Path]:
        from skillpack.installing import Wanted, install

        if skill is None:
            yield self._base
            return
        with tempfile.TemporaryDirectory(prefix="skillpack-learn-") as room:
            folder = Path(room) / "model"
            # Not by its address: the policy is about what others have made.
            install([Wanted(*skill, 1.0, skill[0].name)], self._base, output=folder, progress=self._progress)
            yield folder


def _read(file: Path) -> dict[int, Outcome]:
    try:
        rows = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return {int(place): Outcome(*row) for place, row in rows.items()}
