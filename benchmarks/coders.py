"""Our entropy coder beside arrangements of zstandard, on the integers of real skills.

    python -m benchmarks.coders [--sizes 1 4 16]

SmolLM2-135M-Instruct fine-tuned to write numbers in Spanish (120 steps), packed to each size in MB without texts. What
is coded are the integers of all low-rank tensors. Sizes are bytes with all that decoding needs beside the classes of
the columns, tables included, but for two entropies: that of our contexts, which know the offsets of the dither, and
that of every column of a factor by itself (row-adaptive), which would need a table for each. Decoding is timed on one
core, in megabytes of the bf16 tensors that are changed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from benchmarks import results
from recipes.finetune import fine_tune
from recipes.models import smollm2
from recipes.suite import COURSE
from skillpack.checkpoint import open_checkpoint
from skillpack.codecs.dither import UNIT
from skillpack.codecs.entropy import ChunkReader, Histogram, encode_chunk
from skillpack.codecs.lowrank import LowRank
from skillpack.delta import find_delta
from skillpack.packing.packer import Goal, Packer
from skillpack_store import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from skillpack.codecs.entropy import Group

    Symbols = npt.NDArray[np.int64]

LEVEL = 19


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[1.0, 4.0, 16.0], help="of the skills, MB")
    sizes = parser.parse_args().sizes
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    delta = find_delta(open_checkpoint(smollm2()), open_checkpoint(fine_tune(COURSE["spanish-numbers"])))
    found = []
    for size in sizes:
        packer = Packer(delta, Goal(size=round(1e6 * size)))
        packed = packer.pack()
        packed.payload.close()
        found.append({"skill_bytes": packed.size, **_coders(packer, packed.step)})
        print(found[-1], flush=True)
    arguments = f"--sizes {' '.join(f'{size:g}' for size in sizes)}"
    results.save("coders", {"zstandard_level": LEVEL, "skills": found}, arguments=arguments, machine=True)


def _coders(packer: Packer, step: float) -> dict[str, Any]:
    groups: list[list[Group]] = []
    columns: dict[tuple[str, int], list[Symbols]] = defaultdict(list)
    elements, alone = 0, 0.0
    for plan in packer.lossy:
        codec, analysis, limit = plan.analyses[0]
        if not isinstance(codec, LowRank):
            continue
        elements += plan.elements
        at = min(plan.fineness * step, limit)
        encoding = codec.encode(analysis, at, plan.seed)
        groups += [chunk for chunk in encoding.chunks() if not isinstance(chunk, bytes)]
        unit = UNIT if "dither" in encoding.parameters else 1
        for side, _, _, units in codec._rounded(analysis, encoding.parameters, plan.seed):  # noqa: SLF001
            # Offsets are less than half a unit, so that rounding takes them away.
            symbols = np.rint(units / unit).astype(np.int64)
            alone += sum(_entropy(column) for column in symbols.T)
            name = "embedding" if plan.is_table else "linear"
            columns[name, side].append(symbols.T.reshape(-1))
    counted = Histogram()
    for chunk in groups:
        counted.add(chunk)
    tables = counted.tables()
    exact = sum(_entropy_of(counts) for counts in counted.counts.values()) + counted.raw_bits / 8
    streams = [encode_chunk(chunk, tables) for chunk in groups]
    contexts: dict[str, list[Symbols]] = defaultdict(list)
    for chunk in groups:
        for context, values in chunk:
            contexts[context].append(values)
    every = np.concatenate([values for found in columns.values() for values in found])
    arrangements = {
        "one stream": [every],
        "a stream for each side": [np.concatenate(found) for found in columns.values()],
        "a stream for each context": [np.concatenate(found) for found in contexts.values()],
    }
    found: dict[str, Any] = {
        "integers": every.size,
        "entropy_of_contexts": round(exact),
        "entropy_of_columns": round(alone),
        "ours": sum(map(len, streams)) + len(zstandard.compress(canonical_json(tables.to_json()), LEVEL)),
        "ours_mb_per_second": _rate(elements, lambda: _read(streams, groups, tables)),
    }
    for name, arrays in arrangements.items():
        frames = [zstandard.compress(_bytes(array), LEVEL) for array in arrays]
        found[f"zstandard, {name}"] = sum(map(len, frames))
        found[f"zstandard, {name}, mb_per_second"] = _rate(elements, lambda frames=frames: _unzip(frames))
    return found


def _bytes(values: Symbols) -> bytes:
    """The integers in as few bytes each as all of them fit into."""
    return values.astype(np.min_scalar_type(-int(np.abs(values).max(initial=0)) - 1)).tobytes()


def _entropy(values: Symbols) -> float:
    return _entropy_of(np.unique(values, return_counts=True)[1])


def _entropy_of(counts: npt.NDArray[np.int64]) -> float:
    """Bytes of so many outcomes of each kind at their own entropy."""
    some = counts[counts > 0]
    return float(some @ (np.log2(some.sum()) - np.log2(some))) / 8


def _read(streams: list[bytes], groups: list[list[Group]], tables: Any) -> None:
    for stream, chunk in zip(streams, groups, strict=True):
        reader = ChunkReader(stream, tables)
        for context, values in chunk:
            reader.take(context, values.size)
        reader.finish()


def _unzip(frames: list[bytes]) -> None:
    for frame in frames:
        zstandard.decompress(frame)


def _rate(elements: int, work: Callable[[], None]) -> int:
    """Megabytes of bf16 a second, the best of three."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return round(2 * elements / min(taken) / 1e6)


if __name__ == "__main__":
    main()
