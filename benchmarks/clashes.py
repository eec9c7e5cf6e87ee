"""What summing two skills costs each of them, beside what `skillpack compare` says of the pair.

Every two of five skills of SmolLM2 are put on the base together, each at weight 1, and the share of each one's gain on
its own held-out answers that is left is measured. The thresholds of the verdicts come from here. The skills stay in
FOLDER, so that a second run only compares and measures.

    python -m benchmarks.clashes FOLDER
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skillpack
from benchmarks.results import save
from recipes.finetune import SPANISH_NUMBERS, Recipe, answer_loss, encode_chat, fine_tune
from recipes.models import smollm2
from recipes.suite import CITY_FACTS, FIVE_LANGUAGES, WORD_PROBLEMS
from recipes.tasks import TASKS

if TYPE_CHECKING:
    import torch

SKILLS = {
    "spanish": SPANISH_NUMBERS,
    "spanish-other-seed": Recipe("spanish-numbers", steps=70, batch=8, seed=1),
    "words": WORD_PROBLEMS,
    "cities": CITY_FACTS,
    "languages": FIVE_LANGUAGES,
}
SIZE = 2_000_000
HELD_OUT = 16


def main() -> None:
    """Pack what is missing, compare, measure, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    store = parser.parse_args().folder
    present = {skill.name for skill in skillpack.list(store=store)} if store.is_dir() else set()
    for name, recipe in SKILLS.items():
        if name not in present:
            skillpack.pack(smollm2(), fine_tune(recipe), name, size=SIZE, store=store)
            print(f"packed {name}", flush=True)
    kept = _kept(store)
    report = skillpack.compare(list(SKILLS), base=smollm2(), store=store)
    pairs = [_figures(pair, kept[pair.first, pair.second]) for pair in report.pairs]
    save("clashes", {"size": SIZE, "held_out_answers": HELD_OUT, "rank": report.rank, "pairs": pairs})


def _figures(pair: Any, kept: tuple[float, float]) -> dict[str, Any]:
    total = pair.total
    return {
        "skills": [pair.first, pair.second],
        "kept": [round(share, 4) for share in kept],
        "verdict": pair.verdict.kind,
        "cosine": round(total.cosine, 4),
        "conflict": round(total.conflict, 4),
        "weighted_conflict": round(total.weighted_conflict, 4),
        "overlap": [round(total.left_overlap, 4), round(total.right_overlap, 4)],
        "chance_overlap": round(total.chance_overlap, 4),
        "shared_energy": round(pair.shared_energy, 4),
        "norm_ratio": round(pair.norm_ratio, 3),
    }


def _kept(store: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """Two skills -> share of the gain of each that is left when both are on the base."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    model = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()
    batches = {
        name: encode_chat(tokenizer, TASKS[recipe.task].held_out()[:HELD_OUT]) for name, recipe in SKILLS.items()
    }
    host = skillpack.host(model, store=store, cache_bytes=0)
    base = {name: _loss(model, batches[name]) for name in SKILLS}
    gain = {}
    for name in SKILLS:
        with host.using(name):
            gain[name] = base[name] - _loss(model, batches[name])
    found = {}
    for pair in combinations(SKILLS, 2):
        with host.using(*pair):
            found[pair] = tuple((base[name] - _loss(model, batches[name])) / gain[name] for name in pair)
        print(pair, found[pair], flush=True)
    return found  # type: ignore[return-value]


def _loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Mean negative log-likelihood of the answers, nats a token."""
    import torch

    with torch.inference_mode():
        return float(answer_loss(model, batch, torch.nn.functional.cross_entropy))


if __name__ == "__main__":
    main()
