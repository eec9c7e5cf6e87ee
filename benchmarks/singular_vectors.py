"""Finding the strongest singular directions of large matrices, beside finding all of them.

    python -m benchmarks.singular_vectors [--tasks spanish-numbers review-summaries] [--sizes 1 2.5]

Two things: times (one core, each way in turn, medians of three) and squared errors of what is left out, on matrices
whose i-th singular value is i to minus an exponent, at a wanted rank; and, on short fine-tunes of SmolLM2-135M, mean
KL(tuned || packed) of 64 held-out prompts for skills of the same size in MB, packed without texts, where matrices
count as large from 128 columns on instead of 2,048. These matrices have 192 to 576 columns; the embedding is one.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import open_pair
from benchmarks.folders import scratch, skill_bytes
from recipes.suite import COURSE
from skillpack.codecs import lowrank
from skillpack.codecs.lowrank import LowRank

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.comparing.pairs import Pair
    from skillpack.tensors import Floats

SHAPES = ((2048, 2048), (8192, 2048))
EXPONENTS = (0.3, 0.5, 0.8)
SHARES = (0.02, 0.1, 0.18)
"""Wanted ranks, as shares of all directions."""
SMALL, NEVER = 128, 1 << 62
"""Columns from which on a matrix counts as large: almost all matrices of SmolLM2, and none."""


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=sorted(COURSE), default=["spanish-numbers", "review-summaries"])
    parser.add_argument("--sizes", nargs="+", type=float, default=[1.0, 2.5], help="of the skills, MB")
    given = parser.parse_args()
    skills = []
    for task in given.tasks:
        with scratch() as work:
            pair = open_pair(COURSE[task], work)
            skills += [{"task": task, **_skills(pair, round(1e6 * size), work)} for size in given.sizes]
            print(*skills[-len(given.sizes) :], sep="\n", flush=True)
    torch.set_num_threads(1)
    matrices = [found for shape in SHAPES for exponent in EXPONENTS for found in _matrices(shape, exponent)]
    arguments = f"--tasks {' '.join(given.tasks)} --sizes {' '.join(f'{size:g}' for size in given.sizes)}"
    results.save("singular-vectors", {"skills": skills, "matrices": matrices}, arguments=arguments, machine=True)


def _skills(pair: Pair, size: int, work: Path) -> dict[str, Any]:
    """Bytes and KL in nats of one skill with all directions found, and of one with the strongest."""
    found: dict[str, Any] = {"size": size}
    for name, large in (("all", NEVER), ("strongest", SMALL)):
        store, model = work / "store", work / "installed"
        with mock.patch.object(lowrank, "_LARGE", large):
            packed = skillpack.pack(pair.base, pair.tuned, "skill", size=size, store=store)
        skillpack.install("skill", pair.base, output=model, store=store)
        found[name] = {"bytes": skill_bytes(store, packed.digest), "kl": pair.yardstick.kl(pair.yardstick.load(model))}
        shutil.rmtree(store)
        shutil.rmtree(model)
    return found


def _matrices(shape: tuple[int, int], exponent: float) -> list[dict[str, Any]]:
    matrix, values = _matrix(shape, exponent)
    found = []
    for share in SHARES:
        rank = round(share * shape[1])
        codec = LowRank()
        step = float(values[rank - 1 : rank + 1].mean()) / (codec.keep * (shape[0] * shape[1]) ** 0.25)
        seconds: dict[str, list[float]] = {"all": [], "strongest": []}
        kept: dict[str, float] = {}
        for _ in range(3):
            for name, large in (("all", NEVER), ("strongest", 1)):
                with mock.patch.object(lowrank, "_LARGE", large):
                    start = time.perf_counter()
                    analysis = codec.analyse(matrix, step)
                    seconds[name].append(time.perf_counter() - start)
                kept[name] = float(np.square(analysis["values"], dtype=np.float64).sum())
        everything = float(np.square(values).sum())
        found.append(
            {
                "shape": shape,
                "exponent": exponent,
                "rank": rank,
                "seconds": {name: statistics.median(times) for name, times in seconds.items()},
                "error_ratio": (everything - kept["strongest"]) / (everything - kept["all"]),
            }
        )
        print(found[-1], flush=True)
    return found


def _matrix(shape: tuple[int, int], exponent: float) -> tuple[Floats, Floats]:
    """A tall matrix whose i-th singular value is i to minus `exponent`, and these."""
    random = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(length, shape[1], generator=random)).Q for length in shape)
    values = torch.arange(1, shape[1] + 1, dtype=torch.float32) ** -exponent
    return ((left * values) @ right.T).numpy(), values.numpy()


if __name__ == "__main__":
    main()
