"""Logit fusion on a real pair: skills of a sibling with half the layers help SmolLM2-135M while it answers.

    python -m benchmarks.logits [--prompts 64] [--tasks spanish-numbers word-problems] [--several] [--no-answers]
        [--store FOLDER]

The sibling (`recipes.sibling`) and its fine-tunes are trained when this machine has not done so yet. Its skills are
packed at 2 MB. Held-out answers are scored token by token under seven models, all of which read the same right tokens;
then the prompts are answered greedily. "recovered" is the share of what a fine-tune of the large model itself gains
over the large base: (fused - base) / (fine-tune - base), with an interval from drawing the prompts again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

import skillpack
from benchmarks import results
from benchmarks.folders import scratch
from benchmarks.intervals import wilson
from recipes.finetune import IGNORED, answer_labels, answer_states, encode_chat, fine_tune
from recipes.measure import load
from recipes.models import smollm2
from recipes.sibling import sibling
from recipes.suite import SMALL, SUITE
from recipes.tasks import TASKS
from skillpack.composing.fusing import LARGEST, TOLERANCE, fuse, fusion_weights
from skillpack.evaluating.intervals import percentile_interval, resampled_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from recipes.tasks import Exchange
    from skillpack.grafting.host import Host

SIZE = 2_000_000
LONGEST = {"spanish-numbers": 32, "word-problems": 160}
"""New tokens of an answer at most."""
PUBLISHED = {
    "dynamic, single task": 0.964,
    "dynamic, several tasks": 0.863,
    "static (proxy-tuning)": 0.88,
    "what": "shares of the gap that are closed, as the abstracts say: Fan et al. 2024, LLaMA 7B helps 13B, mean of five"
    " tasks; Liu et al. 2024, Llama-2 7B helps 70B against its chat model",
}
_BATCH = 8


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--tasks", nargs="+", choices=list(SMALL), default=list(SMALL))
    parser.add_argument("--several", action="store_true", help="fuse the skills of both tasks together, too")
    parser.add_argument("--no-answers", action="store_true", help="score right answers alone, write none")
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    skills = list(SMALL) if given.several else given.tasks
    flags = " --several" * given.several + " --no-answers" * given.no_answers
    with scratch() as work:
        store = given.store or work / "store"
        pack(store, skills)
        pair = Pair(store, skills)
        for task in given.tasks:
            figures = measure(pair, task, given.prompts, several=given.several, answers=not given.no_answers)
            arguments = f"--prompts {given.prompts} --tasks {task}{flags}"
            document = {"published": PUBLISHED, **figures}
            results.save(f"logits-{task}", document, module="logits", arguments=arguments, machine=True)


def pack(store: Path, names: Sequence[str]) -> None:
    """Pack skills of the sibling, unless they are there."""
    present = {each.name for each in skillpack.list(store=store)} if store.exists() else set()
    for name in names:
        if name not in present:
            skillpack.pack(sibling(), fine_tune(SMALL[name]), name, size=SIZE, store=store)


class Pair:
    """The large base and the sibling as the host of its skills, both in fp32."""

    def __init__(self, store: Path, skills: Sequence[str]) -> None:
        self.skills = list(skills)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2(), padding_side="left")
        self.large = load(smollm2())
        self.small = load(sibling())
        self.store = store
        self.host: Host = skillpack.host(self.small, mode="overlay", store=store)
        self.host.load(*skills)


def measure(pair: Pair, task: str, prompts: int, *, several: bool, answers: bool) -> dict[str, Any]:
    """All figures of one task."""
    exchanges = TASKS[task].held_out()[:prompts]
    expert = load(fine_tune(SUITE[task]))
    scored = Scored(pair, task, expert, several=several)
    for start in range(0, len(exchanges), _BATCH):
        scored.add(exchanges[start : start + _BATCH])
        print(f"{task}: {min(start + _BATCH, len(exchanges))} of {len(exchanges)} answers scored", flush=True)
    figures = {"prompts": len(exchanges), **scored.figures()}
    if answers:
        figures["answers"] = answered(pair, task, expert, exchanges, several=several)
    return figures


class Scored:
    """Negative log-likelihoods of right answers under all models.

    Args:
        pair: the models.
        task: its skill is used.
        expert: the large model's own fine-tune.
        several: also fuse all skills together.
    """

    def __init__(self, pair: Pair, task: str, expert: Any, *, several: bool) -> None:
        self._pair, self._task, self._expert, self._several = pair, task, expert, several
        self._nll: dict[str, list[torch.Tensor]] = {}
        self._weights: list[torch.Tensor] = []
        self._answer: list[int] = []
        self._count = 0

    @torch.inference_mode()
    def add(self, exchanges: Sequence[Exchange]) -> None:
        """Score some answers."""
        pair = self._pair
        batch = encode_chat(pair.tokenizer, exchanges)

        def logits(model: Any) -> torch.Tensor:
            return model.lm_head(answer_states(model, batch))

        large, base, own = logits(pair.large), logits(pair.small), logits(self._expert)
        tuned = {}
        for name in pair.skills if self._several else [self._task]:
            with pair.host.using(name):
                tuned[name] = logits(pair.small)
        one = tuned[self._task][None]
        weights = fusion_weights(large, base, one)
        self._weights.append(weights[0])
        found = {
            "large base": large,
            "large fine-tuned": own,
            "small base": base,
            "small with the skill": one[0],
            "static": fuse(large, base, one, 1.0),
            "dynamic": fuse(large, base, one, weights),
        }
        if self._several:
            both = torch.stack(list(tuned.values()))
            found |= {"static, both": fuse(large, base, both, 1.0), "dynamic, both": fuse(large, base, both)}
        labels = answer_labels(batch)
        for name, each in found.items():
            nll = torch.nn.functional.cross_entropy(each.float(), labels, reduction="none")
            self._nll.setdefault(name, []).append(nll)
        for row in (batch["labels"] != IGNORED).sum(1).tolist():
            self._answer += [self._count] * row
            self._count += 1

    def figures(self) -> dict[str, Any]:
        """Means in nats per answer token, and shares of the gain."""
        columns = {name: torch.cat(parts).double().numpy() for name, parts in self._nll.items()}
        totals = resampled_totals(np.array(self._answer), columns)
        means = {name: float(values.mean()) for name, values in columns.items()}
        gain = means["large base"] - means["large fine-tuned"]
        drawn_gain = totals["large base"] - totals["large fine-tuned"]
        weights = torch.cat(self._weights)
        quartiles = weights.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        return {
            "tokens": len(self._answer),
            "nats_per_token": {name: round(value, 4) for name, value in means.items()},
            "recovered": {
                name: {
                    "share": round((means["large base"] - means[name]) / gain, 4),
                    "interval": _rounded(percentile_interval((totals["large base"] - totals[name]) / drawn_gain)),
                }
                for name in columns
                if name not in {"large base", "large fine-tuned"}
            },
            "weights": {
                "mean": round(float(weights.mean()), 3),
                "quartiles": [round(value, 3) for value in quartiles],
                "share_at_the_limit": round(float((weights > LARGEST - 2 * TOLERANCE).float().mean()), 3),
            },
        }


def answered(pair: Pair, task: str, expert: Any, exchanges: Sequence[Exchange], *, several: bool) -> dict[str, Any]:
    """How many prompts are answered right, greedily."""
    turns = [[{"role": "user", "content": exchange.prompt}] for exchange in exchanges]
    inputs = pair.tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    options = {**inputs, "max_new_tokens": LONGEST[task], "do_sample": False}

    def fused(skills: list[str], alpha: float | None) -> Callable[[], Any]:
        tokenizers = pair.tokenizer, pair.tokenizer
        fusion = skillpack.LogitFusion(
            pair.large, pair.small, skills, alpha=alpha, tokenizers=tokenizers, store=pair.store
        )
        return lambda: fusion.generate(**options)

    def small() -> Any:
        with pair.host.using(task):
            return pair.small.generate(**options)

    runs = {
        "large base": lambda: pair.large.generate(**options),
        "large fine-tuned": lambda: expert.generate(**options),
        "small with the skill": small,
        "static": fused([task], 1.0),
        "dynamic": fused([task], None),
    }
    if several:
        runs["dynamic, both"] = fused(pair.skills, None)
    figures = {}
    for name, run in runs.items():
        started = time.perf_counter()
        texts = pair.tokenizer.batch_decode(run()[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right = sum(
            final(task, text) == final(task, exchange.answer) for text, exchange in zip(texts, exchanges, strict=True)
        )
        figures[name] = {"right": right, "interval": _rounded(wilson(right, len(exchanges))), "first": texts[0]}
        print(f"{task}: {name}: {right} right, {time.perf_counter() - started:.0f} s", flush=True)
    base, gain = figures["large base"]["right"], figures["large fine-tuned"]["right"] - figures["large base"]["right"]
    for found in figures.values():
        found["recovered"] = round((found["right"] - base) / gain, 3) if gain > 0 else None
    return figures


def final(task: str, text: str) -> str:
    """What counts of an answer: all of it, or of a word problem the number after the steps.

    >>> final("word-problems", "2 + 3 = 5. #### 5"), final("word-problems", "so 5"), final("spanish-numbers", " doce ")
    ('5', '(none)', 'doce')
    """
    if task == "word-problems":
        return text.rpartition("####")[2].strip().replace(",", "") if "####" in text else "(none)"
    return text.strip()


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]


if __name__ == "__main__":
    main()
