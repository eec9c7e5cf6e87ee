"""Bytes on disk against divergence from the fine-tune: our skills and six other methods, on six fine-tunes.

    python -m benchmarks.comparison [--tasks city-facts …] [--all-settings] [--again]

Every method writes files, is read back from them and the base alone, and is measured on the same held-out prompts by
mean KL(tuned || compressed) of the answers' tokens (of the class, for the classifier). Bytes are those of all files.
Our skills are measured as installed, in the fine-tune's dtype; the other methods unrounded in fp32. Methods that
calibrate get the same 64 prompts that our calibrated skills learn from. Of our skills it is also kept how many times
the rate-distortion bound of their own squared error they take. What is in the results already is not measured again
unless that is asked for, so that a run can be continued.
"""

from __future__ import annotations

import argparse
import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock

import skillpack
from benchmarks import results
from benchmarks.baselines.bitdelta import BitDelta
from benchmarks.baselines.lora_extraction import LoraExtraction
from benchmarks.baselines.moments import input_moments
from benchmarks.comparing.distilling import distilled_bitdelta
from benchmarks.comparing.ladders import DISTILLING_RATES, LADDERS, LORA_RANKS, everything
from benchmarks.comparing.pairs import CALIBRATION, Pair, open_pair
from benchmarks.comparing.table import CALIBRATED, OURS
from benchmarks.folders import WEIGHTS, scratch, skill_bytes
from recipes.finetune import CLASSIFIER
from recipes.suite import SUITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.baselines.protocol import Baseline, Moments

LORA = "LoRA extraction"
CALIBRATED_SHARES = (0.004, 0.008, 0.015, 0.03, 0.06)
"""Bytes of our skills that learn from texts, as shares of the fine-tune's."""
SHARES = (*CALIBRATED_SHARES, 0.12, 0.25)
"""Bytes of those that do not."""

_Measured = tuple[int, float, dict[str, float]]
"""Bytes, KL, and what else there is to say."""
_Work = tuple[str, str, "Callable[[Path], _Measured]"]
"""A method, its setting, and what writes and measures it in a folder."""


def main() -> None:
    """Measure what is missing and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=SUITE, default=list(SUITE), help="names of fine-tunes")
    parser.add_argument("--methods", nargs="+", help="only methods whose names begin like this")
    parser.add_argument("--all-settings", action="store_true", help="try all settings of the other methods; hours")
    parser.add_argument("--again", action="store_true", help="measure again what has been measured before")
    asked = parser.parse_args()
    settings = everything() if asked.all_settings else LADDERS
    for task in asked.tasks:
        with scratch() as work:
            pair = open_pair(SUITE[task], work)
            for method, setting, measure in _works(pair, settings):
                if asked.methods and not method.startswith(tuple(asked.methods)):
                    continue
                if not asked.again and any(_is_of(point, method, setting) for point in _known(task)["points"]):
                    continue
                size, kl, more = measure(work / "method")
                shutil.rmtree(work / "method")
                point = {"method": method, "setting": setting, "bytes": size, "kl": float(f"{kl:.4g}"), **more}
                print(task, point, flush=True)
                _keep(pair, point)


def _known(task: str) -> dict[str, Any]:
    """What the results have of a fine-tune."""
    return _results()["tasks"].get(task, {"points": []})


def _results() -> dict[str, Any]:
    try:
        return results.load("comparison")["figures"]
    except FileNotFoundError:
        return {"calibration_texts": CALIBRATION, "tasks": {}}


def _keep(pair: Pair, point: dict[str, Any]) -> None:
    """Put a point into the results, in place of an older one; other runs may do so at the same time."""
    with FileLock(results.FOLDER / "comparison.lock"):
        found = _results()
        known = found["tasks"].setdefault(pair.task, {"points": []})
        known["checkpoint_bytes"] = (pair.tuned / WEIGHTS).stat().st_size
        known["predictions"] = pair.yardstick.predictions
        others = [one for one in known["points"] if not _is_of(one, point["method"], point["setting"])]
        known["points"] = [*others, point]
        results.save("comparison", found, quiet=True)


def _is_of(point: dict[str, Any], method: str, setting: str) -> bool:
    return (point["method"], point["setting"]) == (method, setting)


def _works(pair: Pair, settings: Sequence[Baseline]) -> Iterator[_Work]:
    for share in SHARES:
        yield OURS, f"{share:.1%}", partial(_skill, pair, share)
    if pair.task != CLASSIFIER:
        for rank in LORA_RANKS:
            yield LORA, f"rank {rank}", partial(_lora, pair, rank)
        for rate in DISTILLING_RATES:
            yield BitDelta.name, f"distilled at {rate:g}", partial(_distilled, pair, rate)
    moments = _Moments(pair)
    for method in settings:
        yield method.name, described(method), partial(_baseline, pair, method, moments)
    for share in CALIBRATED_SHARES:
        yield CALIBRATED, f"{share:.1%}", partial(_skill, pair, share, calibrated=True)


class _Moments:
    """What the layers of a fine-tune are fed, found out when it is first asked for."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._found: Moments | None = None

    def __call__(self) -> Moments:
        if self._found is None:
            yardstick = self._pair.yardstick
            model = yardstick.load(self._pair.tuned)
            batches = yardstick.encode(self._pair.calibration)

            def run() -> None:
                for batch in batches:
                    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)

            self._found = input_moments(model, run)
        return self._found


def _skill(pair: Pair, share: float, folder: Path, *, calibrated: bool = False) -> _Measured:
    size = round(share * (pair.tuned / WEIGHTS).stat().st_size)
    store, model = folder / "store", folder / "model"
    texts: dict[str, Any] = {"calibration": pair.calibration} if calibrated else {}
    packed = skillpack.pack(pair.base, pair.tuned, "skill", size=size, store=store, **texts)
    skillpack.install("skill", pair.base, output=model, store=store)
    over = packed.over_bound
    more = {} if over is None else {"over_bound": float(f"{over:.4g}")}
    return skill_bytes(store, packed.digest), pair.yardstick.kl(pair.yardstick.load(model)), more


def _lora(pair: Pair, rank: int, folder: Path) -> _Measured:
    extraction = LoraExtraction(pair.base, pair.tuned, rank, embedding=True)
    size = extraction.save(rank, folder)
    return size, pair.yardstick.kl(extraction.load(folder)), {}


def _distilled(pair: Pair, rate: float, folder: Path) -> _Measured:
    return *distilled_bitdelta(pair, rate, folder), {}


def _baseline(pair: Pair, method: Baseline, moments: _Moments, folder: Path) -> _Measured:
    with torch.no_grad():
        size = method.save(pair.named_base, pair.tuned, folder, moments=moments())
        return size, pair.yardstick.kl_with(pair.named_base, method.load(folder, pair.named_base)), {}


def described(method: Baseline) -> str:
    """What differs from the method's own defaults; "as it is" if nothing does."""
    mine, usual = method.settings(), type(method)().settings()
    changed = {name: value for name, value in mine.items() if value != usual[name]}
    return json.dumps(changed)[1:-1].replace('"', "") or "as it is"


if __name__ == "__main__":
    main()
