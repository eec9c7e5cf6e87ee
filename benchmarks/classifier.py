"""An encoder with a new head: bytes of the skill, and agreement with the fine-tune on held-out reviews.

    python -m benchmarks.classifier

all-MiniLM-L6-v2 fine-tuned to tell positive from negative drug reviews: fp32, tensors renamed by the prefix ``bert.``,
a head that only the fine-tune has. The skill takes at most 5 % of its bytes and is installed on a fresh base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import skillpack
from benchmarks import results
from benchmarks.folders import WEIGHTS, scratch, skill_bytes
from benchmarks.intervals import wilson
from recipes.finetune import DRUG_REVIEWS, fine_tune
from recipes.measure import predicted_labels
from recipes.models import minilm
from recipes.tasks import drug_reviews

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 4_500_000


def main() -> None:
    """Measure and save."""
    base, tuned = minilm(), fine_tune(DRUG_REVIEWS)
    labels = [review.label for review in drug_reviews("Test")]
    expected = predicted_labels(tuned)
    with scratch() as work:
        store, model = work / "store", work / "model"
        packed = skillpack.pack(base, tuned, "reviews", size=SIZE, store=store)
        skillpack.install("reviews", base, output=model, store=store)
        found = predicted_labels(model)
        size = skill_bytes(store, packed.digest)
    checkpoint = (tuned / WEIGHTS).stat().st_size
    agreeing = sum(one == other for one, other in zip(found, expected, strict=True))
    majority = max(labels.count(label) for label in set(labels))
    results.save(
        "classifier",
        {
            "checkpoint_bytes": checkpoint,
            "skill_bytes": size,
            "share": round(size / checkpoint, 5),
            "held_out_reviews": len(labels),
            "agreement": round(agreeing / len(labels), 5),
            "agreement_interval": [round(end, 5) for end in wilson(agreeing, len(labels))],
            "accuracy_tuned": _accuracy(expected, labels),
            "accuracy_installed": _accuracy(found, labels),
            "majority": round(majority / len(labels), 5),
        },
    )


def _accuracy(predicted: Sequence[int], labels: Sequence[int]) -> float:
    return round(sum(one == other for one, other in zip(predicted, labels, strict=True)) / len(labels), 5)


if __name__ == "__main__":
    main()
