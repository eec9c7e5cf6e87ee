"""Memory and time of packing and installing a large sharded checkpoint, each as a whole command.

    python -m benchmarks.memory [--size 3GB]

The checkpoint is synthetic. Memory is anonymous memory (RssAnon), children included, every 20 ms; it must stay under
four times the largest tensor plus 400 MB. Temporary files and memory-mapped checkpoints do not count: the system takes
their pages back when it needs them.
"""

from __future__ import annotations

import argparse
import math
import shutil
from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.folders import same_tensors, scratch
from benchmarks.process import COMMAND, run
from benchmarks.synthetic import Architecture, write_pair
from skillpack.cli.options import parse_size

if TYPE_CHECKING:
    from pathlib import Path

_ALLOWANCE = 400_000_000


def main() -> None:
    """Measure and save; fails if a command takes more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="3GB", help="of the checkpoint, such as 300MB")
    size = parser.parse_args().size
    with scratch() as work:
        figures = measure(work, parse_size(size))
    results.save("memory", figures, arguments=f"--size {size}", machine=True)
    for name, found in figures["commands"].items():
        if found["peak_anonymous_bytes"] > figures["limit_bytes"]:
            raise SystemExit(f"{name} takes more memory than the limit")


def measure(work: Path, size: int) -> dict[str, Any]:
    """Time and peak memory of every command on a checkpoint of about `size` bytes, written below `work`."""
    architecture = Architecture.of_size(size)
    largest = max(2 * math.prod(shape) for shape in architecture.tensors().values())
    base, tuned = write_pair(work, architecture)
    checkpoint = sum(file.stat().st_size for file in base.glob("*.safetensors"))
    environment, output = {"SKILLPACK_HOME": str(work / "home")}, work / "model"
    commands = {
        "pack": [COMMAND, "pack", str(base), str(tuned), "--name", "lossy"],
        "install": [COMMAND, "install", "lossy", str(base), "-o", str(output)],
        "pack --exact": [COMMAND, "pack", str(base), str(tuned), "--name", "exact", "--exact"],
        "install, exact": [COMMAND, "install", "exact", str(base), "-o", str(output)],
    }
    found = {}
    for name, command in commands.items():
        shutil.rmtree(output, ignore_errors=True)
        usage = run(command, environment)
        found[name] = {"peak_anonymous_bytes": usage.anonymous, "seconds": round(usage.seconds, 1)}
        print(name, found[name], flush=True)
    equal, tensors = same_tensors(output, tuned)
    return {
        "checkpoint_bytes": checkpoint,
        "largest_tensor_bytes": largest,
        "limit_bytes": 4 * largest + _ALLOWANCE,
        "commands": found,
        "tensors": tensors,
        "tensors_equal_to_tuned": equal,
    }


if __name__ == "__main__":
    main()
