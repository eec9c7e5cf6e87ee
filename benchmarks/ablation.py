"""What unbiased rounding and weak columns are worth: skills of the same bytes with other settings of the linear layers.

    python -m benchmarks.ablation [--tasks spanish-numbers city-facts]

Mean KL(tuned || packed) on 64 held-out prompts of each fine-tune, as in `benchmarks.comparison`.
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
from recipes.finetune import CLASSIFIER
from recipes.suite import SUITE
from skillpack.codecs.lowrank import LowRank

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4_000_000
SETTINGS = {
    "towards zero, columns above their noise": LowRank(keep=1.0, dead_zone=0.6),
    "dithered, columns above their noise": LowRank(keep=1.0),
    "dithered, columns down to 0.3 of that": LowRank(keep=0.3),
    "dithered, columns down to 0.15 of that (the default)": LowRank(),
    "dithered, columns down to 0.08 of that": LowRank(keep=0.08),
}


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = sorted(set(SUITE) - {CLASSIFIER})
    parser.add_argument("--tasks", nargs="+", choices=tasks, default=["spanish-numbers", "city-facts"])
    found: dict[str, list[dict[str, Any]]] = {}
    for task in parser.parse_args().tasks:
        with scratch() as work:
            pair = open_pair(task, work)
            found[task] = [_skill(pair, work / "skill", name, codec) for name, codec in SETTINGS.items()]
    results.save("ablation", {"size": SIZE, "tasks": found})


def _skill(pair: Pair, folder: Path, name: str, codec: LowRank) -> dict[str, Any]:
    store, model = folder / "store", folder / "model"
    with mock.patch("skillpack.packing.planning._LINEAR", codec):
        packed = skillpack.pack(pair.base, pair.tuned, "skill", size=SIZE, store=store)
    skillpack.install("skill", pair.base, output=model, store=store)
    kl = pair.yardstick.kl(pair.yardstick.load(model))
    found = {"setting": name, "bytes": skill_bytes(store, packed.digest), "kl": float(f"{kl:.3g}")}
    print(pair.task, found, flush=True)
    shutil.rmtree(folder)
    return found


if __name__ == "__main__":
    main()
