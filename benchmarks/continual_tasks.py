"""The sequences of tasks of `benchmarks.continual`: real data, real fine-tunes, and how each task is scored.

The scores are the tasks' own: numbers in words, facts about cities and dates are right or wrong word for word, and so
is what a drug was taken for; of a word problem, which models of this size seldom solve, the likelihood of the worked
solution.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from benchmarks.comparing.pairs import chats
from benchmarks.unrelated import messages
from recipes.finetune import fine_tune
from recipes.models import minilm, smollm2
from recipes.suite import COURSE
from recipes.tasks import TASKS, drug_reviews
from recipes.tasks.numbers import LANGUAGES
from recipes.tasks.task import shuffled
from recipes.tasks.word_problems import word_problem_rows
from recipes.wheels import cache_dir
from skillpack.learning import Task, Training
from skillpack.learning.training import fine_tune as train
from skillpack.texts import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recipes.finetune import Recipe

HELD_OUT = 100
"""Samples that each task is measured on."""
_CALIBRATION = 64


@dataclass(frozen=True)
class Learned:
    """A task of a sequence, with what is needed to learn it again in another way.

    Attributes:
        task: texts and score.
        training: how the expert was trained.
        constant: its learning rate stays, and does not fall to zero.
        calibration: texts that are neither trained nor measured, for methods that calibrate.
        recipe: of the expert; None if it is trained here.
    """

    task: Task
    training: Training
    constant: bool
    calibration: Sequence[Sample]
    recipe: Recipe | None = None

    @property
    def decisive(self) -> list[Any]:
        """All that decides what is learned and measured; JSON."""
        return [self.task.key, asdict(self.training), self.constant]

    @cached_property
    def expert(self) -> Path:
        """Folder of the fine-tune of the base on this task alone, trained once per machine."""
        if self.recipe is not None:
            return fine_tune(self.recipe)
        folder = cache_dir() / "tuned" / f"{self.task.name}-{self.training.steps}-{_digest(self.decisive)[:10]}"
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            train(minilm(), self.task.training, part, self.training, classes=True)
            part.rename(folder)
        return folder

    @cached_property
    def seen(self) -> list[Sample]:
        """The training texts in the order in which the expert saw them, some more than once if it did."""
        samples = self.task.training
        return samples if self.recipe is not None else [samples[place] for place in self.training.order(len(samples))]


@dataclass(frozen=True)
class Course:
    """Tasks in the order in which they are learned, on one base.

    Attributes:
        name: of the sequence.
        base: folder of the base.
        tasks: its tasks.
    """

    name: str
    base: Path
    tasks: tuple[Learned, ...]

    @property
    def classes(self) -> bool:
        """Whether the tasks are of classifiers."""
        return self.tasks[0].task.measure == "label"

    @property
    def key(self) -> str:
        """Digest of all that decides what is learned and measured; hexadecimal."""
        return _digest([self.name, [one.decisive for one in self.tasks]])


def _digest(decisive: Any) -> str:
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def courses(held_out: int = HELD_OUT) -> dict[str, Course]:
    """All sequences by name.

    Args:
        held_out: samples that each task is measured on.
    """
    scores = {
        "spanish-numbers": "exact",
        "few-city-facts": "exact",
        "word-problems": "likelihood",
        "review-summaries": "exact",
        "german-dates": "exact",
    }
    language = Course("smollm2", smollm2(), tuple(_chat(name, score, held_out) for name, score in scores.items()))
    return {
        language.name: language,
        "minilm": Course("minilm", minilm(), (_reviews(held_out), _messages(held_out), _money(held_out))),
    }


def _chat(name: str, score: str, held_out: int) -> Learned:
    recipe, source = COURSE[name], TASKS[name]
    task = Task(
        name,
        chats(source.train(recipe.steps * recipe.batch, recipe.seed)),
        chats(source.held_out()[:held_out]),
        score,
    )
    training = Training(steps=recipe.steps, batch=recipe.batch, learning_rate=recipe.learning_rate)
    return Learned(task, training, recipe.schedule == "constant", chats(source.calibration()[:_CALIBRATION]), recipe)


def _reviews(held_out: int) -> Learned:
    """Whether a review of a drug is positive."""
    train_set, test = (
        [Sample(text=review.text, label=review.label) for review in drug_reviews(split)] for split in ("Train", "Test")
    )
    return _classified("drug-reviews", 200, test[:held_out], test[held_out:][:_CALIBRATION], train_set)


def _messages(held_out: int) -> Learned:
    """The language of a message of Django."""
    known = {name: messages()[code] for code, name in LANGUAGES.items()}
    count = Counter(text for texts in known.values() for text in texts)
    samples = shuffled(
        Sample(text=text, label=name) for name, texts in known.items() for text in sorted(texts) if count[text] == 1
    )
    return _split("message-languages", 400, samples, held_out)


def _money(held_out: int) -> Learned:
    """Whether the solution of a word problem counts dollars."""
    samples = shuffled(
        Sample(text=row["question"], label="money" if "$" in row["answer"] else "no money")
        for row in word_problem_rows()
    )
    return _split("money-problems", 100, samples, held_out)


def _split(name: str, steps: int, samples: Sequence[Sample], held_out: int) -> Learned:
    """A task of labelled texts: the first of them are measured, the next ones calibrate, and the others are trained."""
    rest = samples[held_out:]
    return _classified(name, steps, samples[:held_out], rest[:_CALIBRATION], rest[_CALIBRATION:])


def _classified(
    name: str, steps: int, test: Sequence[Sample], calibration: Sequence[Sample], train_set: Sequence[Sample]
) -> Learned:
    training = Training(steps=steps, batch=16, learning_rate=1e-4, max_tokens=96)
    return Learned(Task(name, list(train_set), list(test)), training, constant=False, calibration=calibration)
