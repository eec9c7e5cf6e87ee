"""Skills on a live SmolLM2-135M: time to switch, cost in the forward pass, mixed batches, and how exact it is.

    python -m benchmarks.live [--rounds 7] [--prompts 200] [--threads 1 2] [--store FOLDER]

Four skills of 2 MB, of four fine-tunes, in overlay mode on the base in fp32. Beside them, in the same run, four LoRAs
of PEFT on all linear layers, at a rank that is about the mean rank of a skill there. What is compared is run in turns,
and medians of the rounds count. --store keeps the skills, or takes them from a store that has them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

import skillpack
from benchmarks import results
from benchmarks.folders import scratch
from recipes.finetune import fine_tune
from recipes.models import smollm2
from recipes.suite import SUITE
from recipes.tasks import TASKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from skillpack.grafting.host import Host

NAMES = ["spanish-numbers", "city-facts", "five-languages", "word-problems"]
SIZE = 2_000_000
PEFT_RANK = 48
TOLERANCE = 2e-3
"""Of logits, relative to their norm; a choice between tokens counts where it is clearer than that."""
NEW_TOKENS = 48
CACHE = 3 << 30
"""Enough for the weights of all four skills in fp32, so that merged mode copies them."""
LIMITS = {"switch_ms": 1.0, "forward": 1.15, "mixed": 2.5, "error": TOLERANCE}


def main() -> None:
    """Measure and save; fails if something is slower or less exact than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    with scratch() as work:
        figures = measure(given.store or work / "store", work, given.rounds, given.prompts, given.threads)
    arguments = f"--rounds {given.rounds} --prompts {given.prompts} --threads {' '.join(map(str, given.threads))}"
    results.save("live", figures, arguments=arguments, machine=True)
    if missed := list(_missed(figures)):
        raise SystemExit(f"not within the limits: {', '.join(missed)}")


def measure(store: Path, work: Path, rounds: int, prompts: int, threads: list[int]) -> dict[str, Any]:
    """All figures."""
    pack(store)
    model = load()
    host = skillpack.host(model, mode="overlay", store=store)
    started = time.perf_counter()
    host.load(*NAMES)
    figures: dict[str, Any] = {
        "load_seconds": round((time.perf_counter() - started) / len(NAMES), 2),
        "resident_bytes": {each.name: each.nbytes for each in host.resident},
        "exactness": exactness(host, store, prompts),
    }
    lora = adapters(work)
    figures["peft_rank"] = PEFT_RANK
    for count in threads:
        torch.set_num_threads(count)
        figures[f"threads_{count}"] = {
            "switch_ms": switching(host, store, lora, work, rounds),
            "forward": forward(host, lora, rounds),
            "mixed": mixed(host, lora, rounds),
        }
    return figures


def pack(store: Path) -> None:
    """Pack the four skills, unless they are there."""
    present = {each.name for each in skillpack.list(store=store)} if store.exists() else set()
    for name in NAMES:
        if name not in present:
            skillpack.pack(smollm2(), fine_tune(SUITE[name]), name, size=SIZE, store=store)


def load() -> Any:
    """The base in fp32."""
    return transformers.AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()


def adapters(work: Path) -> Any:
    """Another base with four random LoRAs, which are also saved."""
    from peft import LoraConfig, get_peft_model

    linear = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=PEFT_RANK, lora_alpha=PEFT_RANK, target_modules=linear, init_lora_weights=False)
    model = get_peft_model(load(), config, adapter_name=NAMES[0])
    for name in NAMES[1:]:
        model.add_adapter(name, config)
    model.save_pretrained(str(work / "lora"))
    return model.eval()


def exactness(host: Host, store: Path, prompts: int) -> dict[str, Any]:
    """Logits of overlay and merged mode, both in fp32, and their choices of the next token at all places of prompts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2())
    merged = skillpack.host(load(), store=store, cache_bytes=CACHE)
    worst, places, clear, different = 0.0, 0, 0, 0
    for number in range(prompts):
        name = NAMES[number % len(NAMES)]
        example = TASKS[name].held_out()[number // len(NAMES)]
        messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.answer}]
        ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.inference_mode(), host.using(name), merged.using(name):
            found, expected = host.model(ids).logits[0], merged.model(ids).logits[0]
        error = float((found - expected).norm() / expected.norm())
        top = expected.topk(2).values
        margin = top[:, 0] - top[:, 1] > TOLERANCE * expected.norm(dim=1) / expected.shape[1] ** 0.5
        worst, places, clear = max(worst, error), places + len(margin), clear + int(margin.sum())
        different += int((found.argmax(1) != expected.argmax(1))[margin].sum())
    return {
        "prompts": prompts,
        "worst_error": float(f"{worst:.2g}"),
        "tokens": places,
        "clear_choices": clear,
        "different_choices": different,
    }


def switching(host: Host, store: Path, lora: Any, work: Path, rounds: int) -> dict[str, float]:
    """Milliseconds to make another resident skill apply to all rows, and what others take for the same."""
    from peft.utils.hotswap import hotswap_adapter

    merged = skillpack.host(load(), store=store, cache_bytes=CACHE)
    merged.load(*NAMES)
    chosen = [((each.digest, 1.0),) for each in host.resident]
    engine = host._engine._overlay  # noqa: SLF001 - the switch alone, as a server makes it
    turn = iter(range(10**9))

    def following() -> int:
        return next(turn) % len(NAMES)

    merged.graft(NAMES[0])
    touched = [weight.detach().clone() for weight in merged.model.parameters()]

    def copy() -> None:
        for weight, source in zip(merged.model.parameters(), touched, strict=True):
            weight.data.copy_(source)

    def swap() -> None:
        name = NAMES[following()]
        while merged.installed and merged.installed[0].name == name:
            name = NAMES[following()]
        merged.swap(name)

    found = in_turns(
        {
            "overlay, engine": lambda: engine.select(chosen[following()]),
            "peft set_adapter": lambda: lora.set_adapter(NAMES[following()]),
            "peft hotswap_adapter": lambda: hotswap_adapter(
                lora, str(work / "lora" / NAMES[1 + following() % 3]), adapter_name=NAMES[0]
            ),
            "merged, swap": swap,
        },
        max(rounds, 8),
    )
    engine.select(())
    found["copy of all weights"] = in_turns({"": copy}, rounds)[""]
    return {name: round(1e3 * seconds, 4) for name, seconds in found.items()}


def forward(host: Host, lora: Any, rounds: int) -> dict[str, Any]:
    """Seconds of a forward pass of 8 prompts of 64 tokens, all logits computed, and their ratio to the base's."""
    ids = torch.randint(0, 49152, (8, 64), generator=torch.Generator().manual_seed(0))

    def run(model: Any, prepare: Callable[[], Any]) -> Callable[[], None]:
        def passes() -> None:
            with torch.inference_mode():
                model(ids)

        passes.prepare = prepare  # type: ignore[attr-defined]
        return passes

    runs: dict[str, Callable[[], None]] = {"base": run(host.model, host.ungraft)}
    for name in NAMES:
        runs[name] = run(host.model, lambda name=name: (host.ungraft(), host.graft(name)))
    runs["peft lora"] = run(lora, lambda: lora.set_adapter(NAMES[0]))
    seconds = in_turns(runs, rounds)
    host.ungraft()
    ratios = {name: round(value / seconds["base"], 3) for name, value in seconds.items() if name != "base"}
    return {"base_seconds": round(seconds["base"], 3), "ratio": ratios}


def mixed(host: Host, lora: Any, rounds: int) -> dict[str, Any]:
    """How much faster four prompts are answered in one mixed batch than each with its skill in a pass of its own."""
    ids = torch.randint(0, 49152, (len(NAMES), 16), generator=torch.Generator().manual_seed(1))
    options: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    options["attention_mask"] = torch.ones_like(ids)
    alone = options | {"attention_mask": torch.ones_like(ids[:1])}

    def apart() -> None:
        for row, name in enumerate(NAMES):
            with host.using(name):
                host.model.generate(ids[row : row + 1], **alone)

    def lora_apart() -> None:
        for row, name in enumerate(NAMES):
            lora.set_adapter(name)
            lora.generate(input_ids=ids[row : row + 1], **alone)

    seconds = in_turns(
        {
            "together": lambda: host.model.generate(ids, skills=NAMES, **options),
            "apart": apart,
            "base": lambda: host.model.generate(ids, **options),
            "peft together": lambda: lora.generate(input_ids=ids, adapter_names=NAMES, **options),
            "peft apart": lora_apart,
        },
        max(3, rounds // 2),
    )
    tokens = len(NAMES) * NEW_TOKENS
    return {
        "new_tokens": tokens,
        "tokens_per_second": {name: round(tokens / value, 1) for name, value in seconds.items()},
        "speedup": round(seconds["apart"] / seconds["together"], 2),
        "peft_speedup": round(seconds["peft apart"] / seconds["peft together"], 2),
    }


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each; one round before the first that counts, and what prepares a run is not counted."""
    taken = defaultdict(list)
    for turn in range(rounds + 1):
        for name, run in runs.items():
            getattr(run, "prepare", lambda: None)()
            started = time.perf_counter()
            run()
            if turn:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def _missed(figures: dict[str, Any]) -> list[str]:
    exact = figures["exactness"]
    missed = ["exactness"] if exact["worst_error"] > LIMITS["error"] or exact["different_choices"] else []
    for name, timed in figures.items():
        if name.startswith("threads_"):
            limits = {
                "switch": timed["switch_ms"]["overlay, engine"] > LIMITS["switch_ms"],
                "forward": max(timed["forward"]["ratio"][skill] for skill in NAMES) > LIMITS["forward"],
                "mixed": timed["mixed"]["speedup"] < LIMITS["mixed"],
            }
            missed += [f"{what} ({name})" for what, over in limits.items() if over]
    return missed


if __name__ == "__main__":
    main()
