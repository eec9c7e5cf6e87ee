"""Real tasks one after another: what SkillPack keeps of each, beside ten other ways to learn them.

    python -m benchmarks.continual [--courses smollm2 minilm] [--methods ours …] [--held-out 100] [--share-of-steps 1]

SmolLM2 learns five tasks (Spanish numbers, facts about cities, word problems, what drugs were taken for, dates in
German), MiniLM three of classification. Scores are from 0 to 1, on held-out prompts; rows are after each task. Every
trained model and every measurement is kept in the recipes' cache folder, so that a run that is interrupted goes on. The
whole takes hours, nearly all of them for training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.continual_baselines.ewc import Ewc
from benchmarks.continual_baselines.lora import SequentialLora
from benchmarks.continual_baselines.merges import Merge
from benchmarks.continual_baselines.protocol import Cache
from benchmarks.continual_baselines.replay import Replay
from benchmarks.continual_baselines.sequential import Sequential
from benchmarks.continual_baselines.sets import LoraSet, Ours, Published, Routes, learned_by_us
from benchmarks.continual_tasks import HELD_OUT, courses
from recipes.wheels import cache_dir
from skillpack.learning.transfer import average, backward_transfer, forward_transfer

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.continual_baselines.protocol import Approach, Result, Row
    from benchmarks.continual_tasks import Course

SHARE = 0.02
"""Bytes of each skill in relation to the base."""
CALIBRATED = 64
"""Training texts of each task that its skill is packed with, where we calibrate; GraftLLM calibrates with as many."""
STRENGTHS = (1e2, 1e4, 1e6)
"""EWC is tried at these, since its paper leaves the strength to the task."""


def main() -> None:
    """Measure what is missing and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--courses", nargs="+", default=["smollm2", "minilm"], choices=["smollm2", "minilm"])
    parser.add_argument("--methods", nargs="+", default=["*"], help="only these keys, such as ours or 'ewc-*'")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="samples that each task is measured on")
    parser.add_argument("--share-of-steps", type=float, default=1.0, help="less than 1 only to try things out")
    parser.add_argument("--no-router", action="store_true", help="measure with tasks named only")
    parser.add_argument("--name", default="continual", help="of the file with the results")
    asked = parser.parse_args()
    try:
        found = results.load(asked.name)["figures"]
    except FileNotFoundError:
        found = {}
    for name in asked.courses:
        course = courses(asked.held_out)[name]
        room = cache_dir() / "continual" / f"{name}-{course.key[:8]}"
        known = found.setdefault(name, {"approaches": {}})
        ours = _room(room, Ours(SHARE))
        report = learned_by_us(course, ours, SHARE).report()
        known |= {
            "held_out": asked.held_out,
            "tasks": [one.task.name for one in course.tasks],
            "measures": [one.task.measure for one in course.tasks],
            "base": [_rounded(task.base) for task in report.tasks],
            "experts": [_rounded(task.tuned) for task in report.tasks],
            "checkpoint_bytes": (course.base / "model.safetensors").stat().st_size,
        }
        routes = None if asked.no_router else Routes(course, ours, Cache(ours / "cache"), SHARE)
        for key, approach in approaches(course, asked.share_of_steps, routes).items():
            if not any(fnmatch(key, pattern) for pattern in asked.methods):
                continue
            folder = _room(room, approach)
            result = approach.learn(course, folder, Cache(folder / "cache"))
            known["approaches"][key] = {
                "name": approach.name,
                "settings": approach.settings,
                **_figures(result, known["base"], known["experts"]),
            }
            results.save(asked.name, found, module="continual", quiet=True)
            print(name, key, json.dumps(known["approaches"][key]), flush=True)


def approaches(course: Course, share: float, routes: Routes | None) -> dict[str, Approach]:
    """All that a course is learned with, by their keys in the results.

    Args:
        course: the tasks.
        share: of the steps of whatever is trained here.
        routes: for the sets of models.
    """
    every: dict[str, Approach] = {
        "ours": Ours(SHARE, routes),
        "ours-calibrated": Ours(SHARE, routes, CALIBRATED),
        "graftllm": Published(routes),
        "sequential": Sequential(share),
    }
    if routes is not None:
        every["ours-shown-training-texts"] = Ours(SHARE, routes.as_trained())
    every |= {f"ewc-{strength:g}": Ewc(share, strength) for strength in STRENGTHS}
    if course.classes:
        # The others would need a head for each task; they are for language models only.
        return every
    return every | {
        "ties": Merge("TIES"),
        "pcb": Merge("PCB"),
        "replay": Replay(share),
        "sequential-lora": SequentialLora(share),
        "lora-set": LoraSet(share=share, routes=routes),
    }


def _room(root: Path, approach: Approach) -> Path:
    """Folder of an approach with its settings."""
    decisive = json.dumps([approach.name, approach.settings], sort_keys=True)
    word = "".join(letter if letter.isalnum() else "-" for letter in approach.name.lower())
    return root / f"{word}-{hashlib.sha256(decisive.encode()).hexdigest()[:8]}"


def _figures(result: Result, base: Row, experts: list[float]) -> dict[str, Any]:
    figures = {"bytes": result.bytes, **_transfer(result.scores, base, experts)}
    if result.routed is not None:
        figures["routed"] = _transfer(result.routed, base, experts)
    return figures


def _transfer(scores: list[Row], base: Row, experts: list[float]) -> dict[str, Any]:
    """The matrix, what it comes to, and the share of the experts' average that the last row keeps."""
    mean = average(scores)
    return {
        "scores": [[_rounded(value) for value in row] for row in scores],
        "average": _rounded(mean),
        "backward_transfer": _rounded(backward_transfer(scores)),
        "forward_transfer": _rounded(forward_transfer(scores, base)),
        "of_experts": None if mean is None else _rounded(mean / (sum(experts) / len(experts))),
    }


def _rounded(value: float | None) -> Any:
    return None if value is None else round(value, 5)


if __name__ == "__main__":
    main()
