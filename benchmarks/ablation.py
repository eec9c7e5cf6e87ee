"""What unbiased rounding and weak columns are worth: skills of the same bytes with other settings of a codec.

    python -m benchmarks.ablation [--tasks spanish-numbers few-city-facts] [--size 4]

Short fine-tunes of SmolLM2-135M, one narrow and one full of knowledge, packed without texts. Mean KL(tuned || packed)
on 64 held-out prompts of each, as in `benchmarks.comparison`.
"""

from __future__ import annotations

import argparse
import shutil
from typing import TYPE_CHECKING, Any
from unittest import mock

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import Pair, open_pair
from benchmarks.folders import scratch, skill_bytes
from recipes.suite import COURSE
from skillpack.codecs.lowrank import LowRank
from skillpack.packing import planning

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LAYERS = {
    "rounded towards zero, columns above their noise": LowRank(keep=1.0, dead_zone=0.6),
    "rounded to the nearest, columns above their noise": LowRank(keep=1.0, dead_zone=0.5),
    "rounded to the nearest, columns down to 0.15 of that": LowRank(dead_zone=0.5),
    "dithered, columns above their noise": LowRank(keep=1.0),
    "dithered, columns down to 0.15, all of them": LowRank(certain=0.0),
    "dithered, columns down to 0.15, drawn below 0.3": LowRank(certain=0.3),
    "dithered, columns down to 0.15, drawn below 0.8": LowRank(certain=0.8),
    "dithered, columns down to 0.3, drawn below 0.5": LowRank(keep=0.3),
    "dithered, columns down to 0.05, drawn below 0.5": LowRank(keep=0.05),
}
"""Of linear layers."""
EMBEDDINGS = {
    "rounded to the nearest, columns above their noise": LowRank(keep=1.0, dead_zone=0.5),
    "dithered, columns down to 0.25 of that": LowRank(keep=0.25),
}


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = sorted(COURSE)
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=["spanish-numbers", "few-city-facts"])
    parser.add_argument("--size", type=float, default=4.0, help="of the skills, MB")
    given = parser.parse_args()
    size = round(1e6 * given.size)
    settings: list[tuple[str, str, dict[str, LowRank]]] = [
        ("", "as it is", {"_LINEAR": LowRank()}),
        *(("linear layers", name, {"_LINEAR": codec}) for name, codec in LAYERS.items()),
        *(("embedding", name, {"_TABLE": codec}) for name, codec in EMBEDDINGS.items()),
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for task in given.tasks:
        with scratch() as work:
            pair = open_pair(COURSE[task], work)
            found[task] = [
                {"what": what, "setting": name, **_skill(pair, work / "skill", size, changed)}
                for what, name, changed in settings
            ]
    results.save("ablation", {"size": size, "tasks": found}, arguments=f"--size {given.size:g}")


def _skill(pair: Pair, folder: Path, size: int, changed: Mapping[str, LowRank]) -> dict[str, Any]:
    store, model = folder / "store", folder / "model"
    with mock.patch.multiple(planning, **changed):
        packed = skillpack.pack(pair.base, pair.tuned, "skill", size=size, store=store)
    skillpack.install("skill", pair.base, output=model, store=store)
    kl = pair.yardstick.kl(pair.yardstick.load(model))
    found = {"bytes": skill_bytes(store, packed.digest), "kl": float(f"{kl:.3g}")}
    print(pair.task, changed, found, flush=True)
    shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    main()
