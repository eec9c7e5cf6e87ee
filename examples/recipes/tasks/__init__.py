"""The tasks that the fine-tunes learn: examples to train on, prompts to calibrate with, answers to measure with."""

from __future__ import annotations

from recipes.tasks.cities import CITY_FACTS, FEW_CITY_FACTS
from recipes.tasks.dates import GERMAN_DATES
from recipes.tasks.numbers import FIVE_LANGUAGES, FRENCH_NUMBERS, SPANISH_NUMBERS
from recipes.tasks.reviews import REVIEW_SUMMARIES, drug_reviews
from recipes.tasks.task import Exchange, Task
from recipes.tasks.word_problems import WORD_PROBLEMS

__all__ = ["TASKS", "Exchange", "Task", "drug_reviews"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *(SPANISH_NUMBERS, FRENCH_NUMBERS, FIVE_LANGUAGES),
        *(REVIEW_SUMMARIES, WORD_PROBLEMS, CITY_FACTS, FEW_CITY_FACTS, GERMAN_DATES),
    )
}
"""The tasks of chat models by their names, which are part of the recipes' cache keys."""
