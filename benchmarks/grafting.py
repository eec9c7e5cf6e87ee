"""Skills on a live model: what comes back after many steps, what a swap takes, and what is left in memory.

    python -m benchmarks.grafting [--steps 1000] [--swaps 1000]

SmolLM2-135M-Instruct in bf16 and four skills of 2 MB. Steps are drawn at random: graft one skill, take one off, or swap
to another set. The same steps are made with the same fine-tunes as LoRA adapters of PEFT, of the rank that the last
column of each matrix's difference is cut at, merged into the weights and out of them again. A swap is timed beside a
copy of the weights that it touches, in turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skillpack
from benchmarks import results
from benchmarks.folders import scratch
from recipes.finetune import SPANISH_NUMBERS, fine_tune
from recipes.models import smollm2
from recipes.suite import CITY_FACTS, FIVE_LANGUAGES, WORD_PROBLEMS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

RECIPES = {"spanish": SPANISH_NUMBERS, "cities": CITY_FACTS, "words": WORD_PROBLEMS, "languages": FIVE_LANGUAGES}
SIZE = 2_000_000
RANK = 16
CACHE = 6 << 30
"""Enough for the weights of every set of four skills, so that steps are as fast as swaps."""


def main() -> None:
    """Measure and save; fails if a base did not come back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--swaps", type=int, default=1000)
    given = parser.parse_args()
    base, tuned = smollm2(), {name: fine_tune(recipe) for name, recipe in RECIPES.items()}
    with scratch() as work:
        store = work / "store"
        for name, folder in tuned.items():
            skillpack.pack(base, folder, name, size=SIZE, store=store)
        figures = {
            "skill_bytes": SIZE,
            "steps": random_steps(base, store, list(tuned), given.steps),
            "peft_steps": peft_steps(base, tuned, given.steps),
            "swap": swap_times(base, store, list(tuned)),
            "memory": memory_after_swaps(base, store, list(tuned), given.swaps),
        }
    arguments = f"--steps {given.steps} --swaps {given.swaps}"
    results.save("grafting", figures, arguments=arguments, machine=True)
    if figures["steps"]["empty_points"] != figures["steps"]["empty_points_equal_to_base"]:
        raise SystemExit("the base did not come back")


def drawn_steps(names: Sequence[str], steps: int) -> Iterator[tuple[str, frozenset[str]]]:
    """What is done and the set of skills after it; the same for the same number of steps. The last set is empty."""
    draw, present = random.Random(0), frozenset[str]()  # noqa: S311 - nothing secret
    for _ in range(steps - 1):
        action = draw.choice(["graft", "ungraft", "swap"])
        if action == "graft" and len(present) < len(names):
            present |= {draw.choice(sorted(set(names) - present))}
        elif action == "ungraft" and present:
            present -= {draw.choice(sorted(present))}
        else:
            action, present = "swap", frozenset(draw.sample(sorted(names), draw.randint(0, 2)))
        yield action, present
    yield "swap", frozenset()


def random_steps(base: Path, store: Path, names: Sequence[str], steps: int) -> dict[str, Any]:
    """Digests of the live model at every point without skills, and whether equal sets gave equal weights."""
    model = open_live(base)
    host = skillpack.host(model, store=store, cache_bytes=CACHE)
    before, empty, equal = digest(model), [], 0
    seen: dict[frozenset[str], str] = {}
    for action, wanted in drawn_steps(names, steps):
        present = {each.name for each in host.installed}
        if action == "graft":
            host.graft(*(wanted - present))
        elif action == "ungraft":
            host.ungraft(*(present - wanted))
        else:
            host.swap(*wanted)
        now = digest(model)
        equal += seen.setdefault(wanted, now) == now
        if not wanted:
            empty.append(now)
    host.verify()
    return {
        "steps": steps,
        "sets_of_skills": len(seen),
        "steps_with_the_bits_of_their_set": equal,
        "empty_points": len(empty),
        "empty_points_equal_to_base": sum(found == before for found in empty),
        "digests": {" ".join(sorted(skills)): found for skills, found in seen.items()},
    }


def peft_steps(base: Path, tuned: Mapping[str, Path], steps: int) -> dict[str, Any]:
    """The same with PEFT: how far the weights are from the base's when all adapters are unmerged."""
    model = open_live(base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped, first = with_adapters(model, tuned), -1
    present: frozenset[str] = frozenset()
    for number, (_, wanted) in enumerate(drawn_steps(list(tuned), steps)):
        if not present <= wanted:
            # Adapters leave in the reverse of the order in which they came, so all do.
            wrapped.base_model.unmerge_adapter()
            present = frozenset()
        if wanted - present:
            wrapped.base_model.merge_adapter(sorted(wanted - present))
        present = wanted
        if not wanted and first < 0 and number and drift(wrapped, before)[1]:
            first = number + 1
    furthest, differing = drift(wrapped, before)
    return {
        "steps": steps,
        "rank": RANK,
        "first_step_with_another_base": first,
        "weights_that_differ_at_the_end": differing,
        "share_of_adapted_weights": round(differing / adapted_weights(wrapped), 4),
        "largest_difference": furthest,
    }


def with_adapters(model: Any, tuned: Mapping[str, Path]) -> Any:
    """The model with a LoRA adapter for each fine-tune: the largest singular directions of each matrix's difference."""
    import peft
    import torch
    from safetensors.torch import load_file

    plain = {name: value.float() for name, value in model.state_dict().items()}
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear")
    wrapped: Any = None
    for name, folder in tuned.items():
        if wrapped is None:
            wrapped = peft.get_peft_model(model, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
        weights = load_file(folder / "model.safetensors")
        for path, module in wrapped.base_model.model.named_modules():
            if hasattr(module, "lora_A") and name in module.lora_A:
                left, values, right = torch.svd_lowrank(
                    weights[f"{path}.weight"].float() - plain[f"{path}.weight"], RANK
                )
                module.lora_A[name].weight.data.copy_(right.T)
                module.lora_B[name].weight.data.copy_(left * values)
    return wrapped


def drift(wrapped: Any, before: Mapping[str, torch.Tensor]) -> tuple[float, int]:
    """Largest difference from the base, and how many weights differ."""
    furthest, differing = 0.0, 0
    for path, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "base_layer"):
            distance = (module.base_layer.weight.detach().float() - before[f"{path}.weight"].float()).abs()
            furthest, differing = max(furthest, float(distance.max())), differing + int(distance.count_nonzero())
    return furthest, differing


def adapted_weights(wrapped: Any) -> int:
    """Weights of all matrices that have adapters."""
    modules = wrapped.base_model.model.modules()
    return sum(module.base_layer.weight.numel() for module in modules if hasattr(module, "base_layer"))


def swap_times(base: Path, store: Path, names: Sequence[str], rounds: int = 20) -> dict[str, Any]:
    """Seconds of a swap between two skills and of a copy of what it touches, in turns."""
    import torch

    model = open_live(base)
    host = skillpack.host(model, store=store, cache_bytes=CACHE)
    started = time.perf_counter()
    host.swap(names[0])
    first = time.perf_counter() - started
    skill = skillpack.show(names[0], store=store).skill
    touched = [model.get_parameter(entry.name) for entry in skill.manifest.tensors]
    host.swap(names[1])
    swaps, copies = [], []
    for number in range(rounds):
        values = [parameter.detach().clone() for parameter in touched]
        started = time.perf_counter()
        with torch.no_grad():
            for parameter, value in zip(touched, values, strict=True):
                parameter.copy_(value)
        copies.append(time.perf_counter() - started)
        # Somebody else has written to the weights, so the host compares them once, outside of the clock.
        host.swap(names[(number + 1) % 2])
        started = time.perf_counter()
        host.swap(names[number % 2])
        swaps.append(time.perf_counter() - started)
    started = time.perf_counter()
    host.ungraft()
    return {
        "touched_bytes": sum(parameter.nbytes for parameter in touched),
        "first_graft_seconds": round(first, 3),
        "swap_seconds": round(statistics.median(swaps), 4),
        "copy_seconds": round(statistics.median(copies), 4),
        "swap_by_copy": round(statistics.median(swaps) / statistics.median(copies), 2),
        "ungraft_seconds": round(time.perf_counter() - started, 4),
    }


def memory_after_swaps(base: Path, store: Path, names: Sequence[str], swaps: int) -> dict[str, Any]:
    """Resident memory after ten swaps and after many."""
    host = skillpack.host(open_live(base), store=store)
    early = 0
    for number in range(swaps):
        if number == 10:
            early = resident()
        host.swap(names[number % 2])
    late = resident()
    return {"swaps": swaps, "after_10_bytes": early, "at_the_end_bytes": late, "growth": round(late / early - 1, 5)}


def open_live(folder: Path) -> Any:
    """The model as transformers loads it, in the checkpoint's dtype."""
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def digest(model: Any) -> str:
    """One digest of all weights."""
    import hashlib

    import torch

    state = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        state.update(name.encode())
        state.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()


def resident() -> int:
    """Bytes of memory that this process holds (VmRSS)."""
    import gc

    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    main()
