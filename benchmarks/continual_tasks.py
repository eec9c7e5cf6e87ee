"""The sequences of tasks of `benchmarks.continual`: real data, real fine-tunes, and how each task is scored.

The scores are the tasks' own: numbers in words, facts about cities and dates are right or wrong word for word, and so
is what a drug was taken for; of a word problem, which models of this size seldom solve, the likelihood of the worked
solution.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from benchmarks.comparing.pairs import chats
from benchmarks.unrelated import messages
from recipes.finetune import CLASSIFIER, fine_tune
from recipes.models import minilm, smollm2
from recipes.suite import COURSE, SUITE
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
        task: texts and score; its training texts are in the order in which the expert saw them.
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

    @cached_property
    def expert(self) -> Path:
        """Folder of the fine-tune of the base on this task alone, trained once per machine."""
        if self.recipe is not None:
            return fine_tune(self.recipe)
        folder = cache_dir() / "tuned" / f"{self.task.name}-{self.training.steps}-{self.task.key[:10]}"
        if not folder.is_dir():
            part = folder.with_name(f"{folder.name}.part")
            train(minilm(), self.task.training, part, self.training, classes=True)
            part.rename(folder)
        return folder


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
        decisive = [[one.task.key, asdict(one.training), one.constant] for one in self.tasks]
        return hashlib.sha256(json.dumps([self.name, decisive], sort_keys=True).encode()).hexdigest()


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
        "minilm": Course("minilm", minilm(), (_reviews(held_out), _messages(held_out), _divisions(held_out))),
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
    """Whether a review of a drug is positive; its expert is the recipes' own."""
    recipe = SUITE[CLASSIFIER]
    train_set, test = (
        [Sample(text=review.text, label=review.label) for review in drug_reviews(split)] for split in ("Train", "Test")
    )
    training = Training(steps=recipe.steps, batch=recipe.batch, learning_rate=recipe.learning_rate, max_tokens=96)
    task = Task(CLASSIFIER, train_set, test[:held_out])
    return Learned(task, training, constant=False, calibration=test[held_out:], recipe=recipe)


def _messages(held_out: int) -> Learned:
    """The language of a message of Django."""
    known = {name: messages()[code] for code, name in LANGUAGES.items()}
    count = Counter(text for texts in known.values() for text in texts)
    samples = shuffled(
        Sample(text=text, label=name) for name, texts in known.items() for text in sorted(texts) if count[text] == 1
    )
    return _classified("message-languages", samples, held_out)


def _divisions(held_out: int) -> Learned:
    """Whether a word problem is solved with a division."""
    samples = shuffled(
        Sample(text=row["question"], label="division" if re.search("<<[^>]*/", row["answer"]) else "no division")
        for row in word_problem_rows()
    )
    return _classified("divisions", samples, held_out)


def _classified(name: str, samples: Sequence[Sample], held_out: int) -> Learned:
    """A task of labelled texts: the first of them are measured, the next ones calibrate, and the others are trained."""
    test, rest, train_set = samples[:held_out], samples[held_out:][:_CALIBRATION], samples[held_out + _CALIBRATION :]
    training = Training(steps=100, batch=16, learning_rate=3e-4, max_tokens=96)
    return Learned(Task(name, train_set, test), training, constant=False, calibration=rest)
