"""Where Tucker is chosen over the other codecs: expert stacks and kernels of convolutions, tiny models of real classes.

    python -m benchmarks.stacks [--qualities 0.9 0.97 0.99]

Each model is packed as usual, and a second time at the same step without the offer of Tucker. For its stacks it is
kept how many of them Tucker wrote, and what bytes and squared error, relative to that of all their deltas, come to with
the choice and without it.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from benchmarks import results
from benchmarks.folders import scratch
from recipes.stacks import STACKED, train
from skillpack.checkpoint import open_checkpoint
from skillpack.codecs import Tucker
from skillpack.delta import find_delta
from skillpack.packing import planning
from skillpack.packing.packer import Goal, Packer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.manifest import TensorEntry
    from skillpack.packing.packer import Packed

QUALITIES = (0.9, 0.97, 0.99, 0.998)


class _Written(NamedTuple):
    """What came out of some tensors.

    Attributes:
        tucker: how many are written by that codec.
        nbytes: coded bytes of all.
        error: root of the squared error over that of writing none of them.
    """

    tucker: int
    nbytes: int
    error: float


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qualities", nargs="+", type=float, default=QUALITIES, help="of the packs, from 0 to 1")
    qualities: Sequence[float] = parser.parse_args().qualities
    found: list[dict[str, Any]] = []
    with scratch() as work:
        for name, kind in STACKED.items():
            if kind.stacks is None:
                continue
            base, tuned = train(kind, work / name)
            for ending in kind.stacks:
                found += [
                    {"model": name, "tensors": ending, **_compared(base, tuned, ending, one)} for one in qualities
                ]
                print(*found[-len(qualities) :], sep="\n", flush=True)
    results.save("stacks", {"rows": found})


def _compared(base: Path, tuned: Path, ending: str, quality: float) -> dict[str, Any]:
    usual = _packer(base, tuned, quality)
    with_choice = usual.pack()
    with mock.patch.object(planning, "tensor_shape", return_value=None):
        without_choice = _packer(base, tuned, quality).coded_at(with_choice.step)
    stacks, alone = (_stacks(usual, packed, ending) for packed in (with_choice, without_choice))
    return {
        "quality": quality,
        "stacks": sum(1 for plan in usual.lossy if _is_stack(plan, ending)),
        "by_tucker": stacks.tucker,
        "bytes": stacks.nbytes,
        "error": round(stacks.error, 4),
        "bytes_without": alone.nbytes,
        "error_without": round(alone.error, 4),
    }


def _packer(base: Path, tuned: Path, quality: float) -> Packer:
    return Packer(find_delta(open_checkpoint(base), open_checkpoint(tuned)), Goal(quality=quality))


def _stacks(packer: Packer, packed: Packed, ending: str) -> _Written:
    packed.payload.close()
    entries: dict[str, TensorEntry] = {entry.name: entry for entry in packed.manifest.tensors}
    plans = [plan for plan in packer.lossy if _is_stack(plan, ending)]
    written = [entries[plan.change.name] for plan in plans]
    missed = sum(entry.error**2 * plan.energy for entry, plan in zip(written, plans, strict=True))
    return _Written(
        sum(entry.main is not None and entry.main.codec == Tucker.name for entry in written),
        sum(entry.nbytes for entry in written),
        math.sqrt(missed / sum(plan.energy for plan in plans)),
    )


def _is_stack(plan: planning.LossyPlan, ending: str) -> bool:
    """Whether a tensor is one that Tucker has something to say about."""
    return plan.change.name.endswith(ending) and len([length for length in plan.change.shape if length > 1]) > 2


if __name__ == "__main__":
    main()
