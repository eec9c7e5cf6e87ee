"""Whether `--size` and `--max-kl` do what they say, on every fine-tune.

    python -m benchmarks.goals [--tasks spanish-numbers …] [--long]

Skills of three sizes, which may take no byte more and should take at most 2 % less; and skills within two divergences,
which are searched for on 64 calibration prompts and measured again on other, held-out prompts. Short fine-tunes of
SmolLM2-135M and one of MiniLM; with `--long` those of `benchmarks.comparison`, which are trained for hours. What is in
the results already is not measured again.
"""

from __future__ import annotations

import argparse
import shutil
import time
from typing import TYPE_CHECKING, Any

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import Pair, open_pair
from benchmarks.folders import WEIGHTS, scratch, skill_bytes
from recipes.finetune import CLASSIFIER
from recipes.suite import COURSE, SUITE

if TYPE_CHECKING:
    from pathlib import Path

SHARES = (0.005, 0.02, 0.08)
"""Sizes that are asked for, as shares of the fine-tune's."""
DIVERGENCES = (0.02, 0.005)
"""KL that is asked for, nats per prediction."""
SHORT = {**COURSE, CLASSIFIER: SUITE[CLASSIFIER]}


def main() -> None:
    """Measure what is missing and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=sorted(SHORT | SUITE), help="names of fine-tunes")
    parser.add_argument("--long", action="store_true", help="the fine-tunes of benchmarks.comparison")
    given = parser.parse_args()
    recipes = SUITE if given.long else SHORT
    if missing := sorted(set(given.tasks or ()) - set(recipes)):
        parser.error(f"there is no {'long' if given.long else 'short'} fine-tune for {', '.join(missing)}")
    arguments = "--long" if given.long else ""
    try:
        found = results.load("goals")["figures"]
    except FileNotFoundError:
        found = {}
    for task in given.tasks or recipes:
        recipe = recipes[task]
        key = f"{task}, {recipe.steps} steps"
        known = found.setdefault(key, {"sizes": [], "divergences": []})
        with scratch() as work:
            pair = open_pair(recipe, work)
            whole = (pair.tuned / WEIGHTS).stat().st_size
            for share in SHARES[len(known["sizes"]) :]:
                known["sizes"].append(_sized(pair, work / "skill", round(share * whole)))
                results.save("goals", found, arguments=arguments, quiet=True)
            for allowed in DIVERGENCES[len(known["divergences"]) :]:
                known["divergences"].append(_within(pair, work / "skill", allowed))
                results.save("goals", found, arguments=arguments, quiet=True)


def _sized(pair: Pair, folder: Path, size: int) -> dict[str, Any]:
    packed = skillpack.pack(pair.base, pair.tuned, "skill", size=size, store=folder)
    found = {"asked": size, "bytes": skill_bytes(folder, packed.digest)}
    shutil.rmtree(folder)
    print(pair.task, found, flush=True)
    return found


def _within(pair: Pair, folder: Path, allowed: float) -> dict[str, Any]:
    store, model, start = folder / "store", folder / "model", time.monotonic()
    packed = skillpack.pack(pair.base, pair.tuned, "skill", max_kl=allowed, calibration=pair.calibration, store=store)
    seconds = time.monotonic() - start
    assert packed.measured is not None
    skillpack.install("skill", pair.base, output=model, store=store)
    found = {
        "asked": allowed,
        "bytes": skill_bytes(store, packed.digest),
        "kl_on_calibration_texts": float(f"{packed.measured.kl:.3g}"),
        "upper_end_of_its_interval": float(f"{packed.measured.upper:.3g}"),
        "kl_on_held_out_texts": float(f"{pair.yardstick.kl(pair.yardstick.load(model)):.3g}"),
        "seconds": round(seconds),
    }
    shutil.rmtree(folder)
    print(pair.task, found, flush=True)
    return found


if __name__ == "__main__":
    main()
