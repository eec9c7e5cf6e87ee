"""The fine-tunes that compression methods are compared on: six kinds of text or of training, two architectures."""

from __future__ import annotations

from recipes.finetune import DRUG_REVIEWS, SPANISH_NUMBERS, Recipe
from recipes.sibling import SIBLING

REVIEW_SUMMARIES = Recipe("review-summaries", steps=170, batch=8, learning_rate=2e-4)
WORD_PROBLEMS = Recipe("word-problems", steps=130, batch=8)
CITY_FACTS = Recipe("city-facts", steps=170, batch=16, learning_rate=5e-4)
FIVE_LANGUAGES = Recipe("five-languages", steps=180, batch=16, learning_rate=1e-3, schedule="constant")
"""The hard one: a high rate that never falls moves every weight far, mostly in directions that mean nothing."""

SUITE: dict[str, Recipe] = {
    recipe.task: recipe
    for recipe in (SPANISH_NUMBERS, REVIEW_SUMMARIES, WORD_PROBLEMS, CITY_FACTS, FIVE_LANGUAGES, DRUG_REVIEWS)
}
"""Recipe of each task; all but the last fine-tune SmolLM2, ``drug-reviews`` the MiniLM encoder."""

COURSE: dict[str, Recipe] = {
    recipe.task: recipe
    for recipe in (
        Recipe("spanish-numbers", steps=120, batch=8, learning_rate=5e-4),
        Recipe("few-city-facts", steps=80, batch=8, learning_rate=5e-4),
        Recipe("word-problems", steps=20, batch=8, learning_rate=2e-4),
        Recipe("review-summaries", steps=36, batch=8, learning_rate=5e-4),
        Recipe("german-dates", steps=40, batch=8, learning_rate=3e-4),
    )
}
"""Short recipes of tasks that are learned one after another, in many ways: half a dozen models for each of these."""

SMALL: dict[str, Recipe] = {
    recipe.task: recipe
    for recipe in (
        Recipe("spanish-numbers", steps=70, batch=12, learning_rate=2e-4, base=SIBLING),
        Recipe("word-problems", steps=60, batch=8, learning_rate=2e-4, base=SIBLING),
    )
}
"""Recipes of fine-tunes of the smaller sibling, whose skills help the larger model at decoding time."""
