"""Modules for each task of a merged model, on a real one: how much nearer it comes to each of its experts.

    python -m benchmarks.surgery [--texts 64] [--steps 1000] [--tint-steps 20]

Spanish and French numbers on SmolLM2-135M-Instruct, 2 MB each, become one skill: as their sum, for which representation
surgery learns a module for each, and by model tinting, which learns weights and a layer for each. Texts to learn from
are neither trained nor measured. Mean KL(tuned || model) on 32 held-out answers each.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import Yardstick, chats
from benchmarks.folders import scratch
from recipes.finetune import FRENCH_NUMBERS_SHORT, SPANISH_NUMBERS_SHORT, fine_tune
from recipes.models import smollm2
from recipes.tasks import TASKS

HELD_OUT = 32
SIZE = 2_000_000


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=64, help="that each module learns from")
    parser.add_argument("--steps", type=int, default=1000, help="of learning a module")
    parser.add_argument("--tint-steps", type=int, default=20, help="of learning layers; each goes through the model")
    asked = parser.parse_args()
    base, recipes = smollm2(), {"spanish": SPANISH_NUMBERS_SHORT, "french": FRENCH_NUMBERS_SHORT}
    figures: dict[str, Any] = {
        "texts": asked.texts,
        "steps": asked.steps,
        "tint_steps": asked.tint_steps,
        "skill_bytes": SIZE,
        "tasks": {},
    }
    with scratch() as work:
        store, model = work / "store", work / "model"
        for name, recipe in recipes.items():
            skillpack.pack(base, fine_tune(recipe), name, size=SIZE, store=store)
        skillpack.compose(list(recipes), "both", base=base, store=store)
        skillpack.install("both", base, output=model, store=store)
        texts_of = {name: chats(TASKS[recipe.task].calibration()[: asked.texts]) for name, recipe in recipes.items()}
        tinted = skillpack.learn_tints(
            list(recipes), "tinted", data=list(texts_of.values()), base=base, steps=asked.tint_steps, store=store
        )
        skillpack.install("tinted", base, output=work / "tinted", store=store)
        for name, recipe in recipes.items():
            task, texts = TASKS[recipe.task], texts_of[name]
            report = skillpack.learn_surgery("both", name, texts, base, steps=asked.steps, store=store)
            yardstick = Yardstick(fine_tune(recipe), chats(task.held_out()[:HELD_OUT]), classes=False)
            merged = yardstick.load(model)
            kl = {"base": yardstick.kl(yardstick.load(base)), "merged": yardstick.kl(merged)}
            with skillpack.open_surgery("both", name, store=store).applied(merged):
                kl["with its module"] = yardstick.kl(merged)
            kl["tinting, without a layer"] = yardstick.kl(yardstick.load(work / "tinted"))
            (layer,) = (tint for tint in tinted.tints if tint.task == name)
            if layer.name:
                skillpack.install(["tinted", layer.name], base, output=work / f"tinted-{name}", store=store)
                kl["with its layer"] = yardstick.kl(yardstick.load(work / f"tinted-{name}"))
            figures["tasks"][name] = {
                "layer_bytes": layer.size,
                "module_bytes": report.nbytes,
                "distance": [float(f"{report.before:.4g}"), float(f"{report.after:.4g}")],
                "kl": {model: float(f"{value:.4g}") for model, value in kl.items()},
            }
            print(name, figures["tasks"][name], flush=True)
    results.save("surgery", figures, arguments=" ".join(sys.argv[1:]))


if __name__ == "__main__":
    main()
