"""Lossy skills without data: bytes on disk against behaviour.

    python -m benchmarks.fidelity

SmolLM2-135M-Instruct fine-tuned to write numbers in Spanish (all weights, 200 steps), measured on 150 held-out numbers.
The models measured are installed ones, in bf16 like the fine-tune.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import skillpack
from benchmarks import results
from benchmarks.folders import WEIGHTS, scratch, skill_bytes
from benchmarks.intervals import bootstrap
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.measure import HeldOut
from recipes.models import smollm2
from recipes.tasks import TASKS

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (1_000_000, 2_200_000, 4_000_000, 6_500_000)


def main() -> None:
    """Measure and save."""
    base, tuned = smollm2(), fine_tune(SPANISH_NUMBERS)
    measure = HeldOut(base, tuned, TASKS[SPANISH_NUMBERS.task].held_out())
    with scratch() as work:
        ours = [_skill(measure, base, tuned, work, size) for size in (*SIZES, None)]
    results.save(
        "fidelity",
        {
            "checkpoint_bytes": (tuned / WEIGHTS).stat().st_size,
            "held_out_answers": int(measure.answer.max()) + 1,
            "held_out_tokens": measure.tokens,
            "base_nll": round(measure.base_nll, 5),
            "tuned_nll": round(measure.tuned_nll, 5),
            "skillpack": ours,
        },
    )


def _skill(measure: HeldOut, base: Path, tuned: Path, work: Path, size: int | None) -> dict[str, Any]:
    store, model = work / "store", work / "model"
    packed = skillpack.pack(base, tuned, "spanish", size=size, store=store)
    skillpack.install("spanish", base, output=model, store=store)
    found = {
        "asked": "default quality" if size is None else f"{size / 1e6:g} MB",
        "bytes": skill_bytes(store, packed.digest),
        **_measured(measure, model),
    }
    shutil.rmtree(model)
    print(found, flush=True)
    return found


def _measured(measure: HeldOut, model: Any) -> dict[str, Any]:
    scores = measure.score(model)
    fidelity = measure.summary(scores)
    intervals = bootstrap(measure, scores)
    found: dict[str, Any] = {"nll": round(fidelity.nll, 5)}
    for name in ("kl", "kept", "agreement"):
        found[name] = round(getattr(fidelity, name), 6)
        found[f"{name}_interval"] = [round(end, 6) for end in intervals[name]]
    return found


if __name__ == "__main__":
    main()
