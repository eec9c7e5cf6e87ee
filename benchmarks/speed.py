"""Time and memory of whole commands on SmolLM2-135M, start of the interpreter included: medians of five.

    python -m benchmarks.speed [--runs 5]

Every run has a store and a model folder of its own; the models' files are in the page cache.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks import results
from benchmarks.folders import WEIGHTS, scratch
from benchmarks.process import COMMAND, Usage, run
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.models import smollm2

if TYPE_CHECKING:
    from pathlib import Path


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how often each command is run")
    runs = parser.parse_args().runs
    base, tuned = smollm2(), fine_tune(SPANISH_NUMBERS)
    for model in (base, tuned):
        _read(model / WEIGHTS)
    taken: dict[str, list[Usage]] = defaultdict(list)
    for _ in range(runs):
        with scratch() as work:
            _run_all(base, tuned, work, taken)
    figures = {
        name: {
            "seconds": round(statistics.median(usage.seconds for usage in usages), 2),
            "slowest_seconds": round(max(usage.seconds for usage in usages), 2),
            "peak_anonymous_bytes": max(usage.anonymous for usage in usages),
        }
        for name, usages in taken.items()
    }
    arguments = "" if runs == parser.get_default("runs") else f"--runs {runs}"
    results.save("speed", {"runs": runs, "commands": figures}, arguments=arguments, machine=True)


def _run_all(base: Path, tuned: Path, work: Path, taken: dict[str, list[Usage]]) -> None:
    model, output = work / "model", work / "output"
    shutil.copytree(base, model)
    commands = {
        "--help": ["--help"],
        "pack": ["pack", str(base), str(tuned), "--name", "lossy"],
        "install -o": ["install", "lossy", str(base), "-o", str(output)],
        "install": ["install", "lossy", str(model)],
        "remove": ["remove", "lossy", str(model)],
        "pack --exact": ["pack", str(base), str(tuned), "--name", "exact", "--exact"],
        "install, exact": ["install", "exact", str(model)],
    }
    for name, arguments in commands.items():
        usage = run([COMMAND, *arguments], {"SKILLPACK_HOME": str(work / "home")})
        taken[name].append(usage)
        print(f"{name}: {usage.seconds:.2f} s, {usage.anonymous / 1e6:.0f} MB", flush=True)


def _read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


if __name__ == "__main__":
    main()
