"""Train the fine-tunes that tests share, with all processors, before tests on real models run side by side.

python -m recipes.shared
"""

from __future__ import annotations

from recipes.finetune import DRUG_REVIEWS, FRENCH_NUMBERS_SHORT, SPANISH_NUMBERS_SHORT, fine_tune

SHARED = (SPANISH_NUMBERS_SHORT, FRENCH_NUMBERS_SHORT, DRUG_REVIEWS)


if __name__ == "__main__":
    for recipe in SHARED:
        print(fine_tune(recipe), flush=True)
