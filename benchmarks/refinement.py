"""What calibration texts are worth: lossy skills with and without refinement, at the same bytes on disk.

    python -m benchmarks.refinement [--sizes 4 2.2]

SmolLM2-135M-Instruct fine-tuned to write numbers in Spanish, 30 steps of refinement on 64 other numbers, of which 16
are kept for the decision whether it helped; measured on 150 held-out numbers as in `benchmarks.fidelity`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from typing import TYPE_CHECKING, Any

import skillpack
from benchmarks import results
from benchmarks.folders import scratch, skill_bytes
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.models import smollm2
from recipes.tasks import TASKS
from skillpack.texts import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recipes.tasks import Exchange

TEXTS, STEPS = 64, 30


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=float, default=[4.0, 2.2], help="of the skills, MB")
    sizes = parser.parse_args().sizes
    task = TASKS[SPANISH_NUMBERS.task]
    texts, held_out = _samples(task.calibration()[:TEXTS]), _samples(task.held_out())
    with scratch() as work:
        found = [_skill(work, round(1e6 * size), texts, held_out, steps) for size in sizes for steps in (0, STEPS)]
    figures = {"texts": TEXTS, "held_out_answers": len(held_out), "skills": found}
    results.save("refinement", figures, arguments=f"--sizes {' '.join(f'{size:g}' for size in sizes)}", machine=True)


def _skill(work: Path, size: int, texts: Sequence[Sample], held_out: Sequence[Sample], steps: int) -> dict[str, Any]:
    base, tuned, store = smollm2(), fine_tune(SPANISH_NUMBERS), work / "store"
    start = time.perf_counter()
    packed = skillpack.pack(
        base, tuned, "spanish", size=size, refine=steps, calibration=texts if steps else None, store=store
    )
    seconds = time.perf_counter() - start
    report = skillpack.evaluate("spanish", base, tuned, held_out, store=store, tensors=False)
    found = {
        "asked": f"{size / 1e6:g} MB",
        "steps": steps,
        "bytes": skill_bytes(store, packed.digest),
        "seconds": round(seconds, 1),
        "kl": round(report.kl, 6),
        "kl_interval": [round(end, 6) for end in report.kl_interval],
        "agreement": round(report.agreement, 6),
        "kept": None if report.kept is None else round(report.kept, 6),
        "kept_interval": None if report.kept_interval is None else [round(end, 6) for end in report.kept_interval],
    }
    print(found, flush=True)
    shutil.rmtree(store)
    return found


def _samples(exchanges: Sequence[Exchange]) -> list[Sample]:
    return [
        Sample(messages=({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))
        for prompt, answer in ((exchange.prompt, exchange.answer) for exchange in exchanges)
    ]


if __name__ == "__main__":
    main()
