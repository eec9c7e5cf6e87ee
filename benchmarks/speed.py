"""Time and memory of whole commands on SmolLM2-135M, start of the interpreter included: medians of five.

    python -m benchmarks.speed [--runs 5]

Every run has a store and a model folder of its own; the models' files are in the page cache. Beside that, how fast the
deltas of skills of several sizes are decoded on one core, in bytes of the bf16 tensors that they change.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import CALIBRATION, chats
from benchmarks.folders import WEIGHTS, scratch
from benchmarks.process import COMMAND, Usage, run
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.models import smollm2
from recipes.tasks import TASKS
from skillpack.checkpoint import open_checkpoint
from skillpack.skill import open_skill
from skillpack.summaries import open_or_create
from skillpack.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from pathlib import Path

DECODED = 2_000_000, 4_000_000, 16_000_000
"""Bytes of the skills that are decoded."""


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
    with scratch() as work:
        decoding = [_decoding(base, tuned, work / str(size), size, runs) for size in DECODED]
    arguments = "" if runs == parser.get_default("runs") else f"--runs {runs}"
    found = {"runs": runs, "commands": figures, "decoding": decoding}
    results.save("speed", found, arguments=arguments, machine=True)


_PACK = ["pack", "--size", "4MB"]


def _run_all(base: Path, tuned: Path, work: Path, taken: dict[str, list[Usage]]) -> None:
    model, output, texts = work / "model", work / "output", work / "texts.jsonl"
    shutil.copytree(base, model)
    _write_texts(texts)
    commands = {
        "--help": ["--help"],
        "pack": ["pack", str(base), str(tuned), "--name", "lossy"],
        "install -o": ["install", "lossy", str(base), "-o", str(output)],
        "install": ["install", "lossy", str(model)],
        "remove": ["remove", "lossy", str(model)],
        "pack --calibration": [*_PACK, str(base), str(tuned), "--name", "calibrated", "--calibration", str(texts)],
        "pack --exact": ["pack", str(base), str(tuned), "--name", "exact", "--exact"],
        "install, exact": ["install", "exact", str(model)],
    }
    for name, arguments in commands.items():
        usage = run([COMMAND, *arguments], {"SKILLPACK_HOME": str(work / "home")})
        taken[name].append(usage)
        print(f"{name}: {usage.seconds:.2f} s, {usage.anonymous / 1e6:.0f} MB", flush=True)


def _write_texts(path: Path) -> None:
    """As many chats to calibrate with as in the other benchmarks."""
    with path.open("w", encoding="utf-8") as file:
        for sample in chats(TASKS[SPANISH_NUMBERS.task].calibration()[:CALIBRATION]):
            file.write(json.dumps({"messages": sample.messages}) + "\n")


def _decoding(base: Path, tuned: Path, store: Path, size: int, runs: int) -> dict[str, float]:
    """How fast all lossy tensors of a skill become deltas, on one core, in the checkpoint's bytes."""
    packed = skillpack.pack(base, tuned, "skill", size=size, store=store)
    skill = open_skill(open_or_create(store), packed.digest, "skill")
    entries = [entry for entry in skill.manifest.tensors if entry.error and entry.reference is not None]
    checkpoint = open_checkpoint(base)
    taken, cores = [], os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        for _ in range(runs):
            start = time.perf_counter()
            for entry in entries:
                skill.decode(entry, checkpoint.read(str(entry.reference)))
            taken.append(time.perf_counter() - start)
    finally:
        os.sched_setaffinity(0, cores)
    nbytes = sum(DTYPE_BYTES[entry.dtype] * math.prod(entry.shape) for entry in entries)
    rate = nbytes / statistics.median(taken)
    print(f"decoding {packed.size:,} bytes: {rate / 1e6:.0f} MB/s", flush=True)
    return {"skill_bytes": packed.size, "delta_bytes": nbytes, "bytes_per_second": round(rate)}


def _read(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


if __name__ == "__main__":
    main()
