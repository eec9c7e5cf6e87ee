"""What calibration texts are worth: skills of the same bytes that learned from different texts, or from none.

    python -m benchmarks.calibration [--task few-city-facts] [--long] [--size 2] [--again]

SmolLM2-135M-Instruct, shortly fine-tuned to write numbers in Spanish or for another task; with `--long` as in
`benchmarks.comparison`. The texts are prompts of the task that are neither trained nor measured, 8 to 512 of them, or
64 of another task; a quarter of them only decides whether what was learned is kept. What is in the results already is
not measured again unless that is asked for, so that a run can be continued. With 64 of them the parts of what is
learned stand alone as well: the sensitivity of tensors by either metric, and how far down columns are kept with errors
of rounding that cancel out.
Measured on held-out answers, up to 150.
"""

from __future__ import annotations

import argparse
import shutil
import time
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import chats
from benchmarks.folders import scratch, skill_bytes
from recipes.finetune import CLASSIFIER, fine_tune
from recipes.models import smollm2
from recipes.suite import COURSE, SUITE
from recipes.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from recipes.finetune import Recipe
    from skillpack.texts import Sample

HELD_OUT = 150
COUNTS = (8, 64, 512)
FOREIGN = "word-problems", 64
"""Texts of another kind: no number, and hardly a word, in common with the answers that are measured."""


ALONE = 64
PARTS: Mapping[str, Mapping[str, Any]] = {
    "sensitivity by fisher alone": {"refine": 0},
    "sensitivity by activation alone": {"metric": "activation", "refine": 0},
    "columns and cancelling errors alone": {"metric": "identity"},
}


class Lesson(NamedTuple):
    """Texts to learn from.

    Attributes:
        name: what they are.
        texts: None to learn nothing.
        options: what to learn from them, arguments of `skillpack.pack`; by default everything.
    """

    name: str
    texts: Sequence[Sample] | None
    options: Mapping[str, Any] = MappingProxyType({})


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=sorted((set(SUITE) | set(COURSE)) - {CLASSIFIER}), default="spanish-numbers")
    parser.add_argument("--long", action="store_true", help="the fine-tune of benchmarks.comparison")
    parser.add_argument("--size", type=float, default=2.0, help="of the skills, MB")
    parser.add_argument("--again", action="store_true", help="measure again what has been measured before")
    asked = parser.parse_args()
    recipes = SUITE if asked.long else COURSE
    if asked.task not in recipes:
        parser.error(f"there is no {'long' if asked.long else 'short'} fine-tune for {asked.task}")
    recipe = recipes[asked.task]
    arguments = f"--task {asked.task} {'--long ' if asked.long else ''}--size {asked.size:g}"
    name = f"calibration-{asked.task}-{recipe.steps}"
    held_out = chats(TASKS[asked.task].held_out()[:HELD_OUT])
    own, (foreign, count) = chats(TASKS[asked.task].calibration()), FOREIGN
    lessons = [Lesson("none", None)]
    lessons += [Lesson(f"{len(own[:most])} of its kind", own[:most]) for most in COUNTS if most / 2 < len(own)]
    lessons.append(Lesson(f"{count} of {foreign}", chats(TASKS[foreign].calibration()[:count])))
    lessons += [
        Lesson(f"{len(own[:ALONE])} of its kind, {part}", own[:ALONE], options) for part, options in PARTS.items()
    ]
    figures: dict[str, Any] = {
        "task": asked.task,
        "steps": recipe.steps,
        "held_out_answers": len(held_out),
        "skills": [],
    }
    with suppress(FileNotFoundError):
        figures = figures if asked.again else results.load(name)["figures"]
    for lesson in lessons:
        if any(skill["texts"] == lesson.name for skill in figures["skills"]):
            continue
        with scratch() as work:
            figures["skills"].append(_skill(work, recipe, round(1e6 * asked.size), lesson, held_out))
        results.save(name, figures, module="calibration", arguments=arguments, machine=True, quiet=True)


def _skill(work: Path, recipe: Recipe, size: int, lesson: Lesson, held_out: Sequence[Sample]) -> dict[str, Any]:
    base, tuned, store = smollm2(), fine_tune(recipe), work / "store"
    start = time.perf_counter()
    packed = skillpack.pack(base, tuned, "skill", size=size, store=store, **_texts(lesson))
    seconds = time.perf_counter() - start
    report = skillpack.evaluate("skill", base, tuned, held_out, store=store, tensors=False)
    found = {
        "texts": lesson.name,
        "bytes": skill_bytes(store, packed.digest),
        "seconds": round(seconds, 1),
        "kl": round(report.kl, 6),
        "kl_interval": [round(end, 6) for end in report.kl_interval],
        "agreement": round(report.agreement, 6),
        "kept": None if report.kept is None else round(report.kept, 6),
        "kept_interval": None if report.kept_interval is None else [round(end, 6) for end in report.kept_interval],
    }
    print(found, flush=True)
    shutil.rmtree(store)
    return found


def _texts(lesson: Lesson) -> dict[str, Any]:
    return {} if lesson.texts is None else {"calibration": lesson.texts, **lesson.options}


if __name__ == "__main__":
    main()
