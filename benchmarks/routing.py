"""Routing on SmolLM2-135M: five tasks and texts that are none of them, by every method, and then a sixth task.

    python -m benchmarks.routing [--prompts 100] [--costly 20] [--examples 40] [--store FOLDER]

Examples are prompts of the tasks' calibration sets, what is routed is held out; the skills are those of
`benchmarks.continual`, 2 MB each. The sixth writes numbers in French words, close to the one of Spanish numbers. What
is none of them: questions of everyday life, questions close to the tasks, questions on science (GPQA), prose and code
of Python's own modules, and messages of Django in a hundred languages. --costly is how many prompts of each kind the
method likelihood sees, and 40 % of --prompts the other two that need whole passes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

import skillpack
from benchmarks import results
from benchmarks.folders import scratch
from benchmarks.unrelated import unrelated_texts
from recipes.finetune import FRENCH_NUMBERS_SHORT, fine_tune
from recipes.models import smollm2
from recipes.suite import COURSE
from recipes.tasks import TASKS
from skillpack.routing.adding import attach_prompts
from skillpack.routing.applying import HostSkills
from skillpack.routing.examples import find_examples
from skillpack.routing.features import Base
from skillpack.routing.methods import OWN
from skillpack.routing.router import SkillRouter
from skillpack.skill import open_skill
from skillpack.summaries import open_existing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.routing.protocol import Tokens

NAMES = list(COURSE)
SIXTH = FRENCH_NUMBERS_SHORT.task
SIZE = 2_000_000
LIMITS = {"accuracy": 0.97, "abstains": 0.90, "changed": 0.01, "milliseconds": 3.0}
"""Of the method prototype."""


class Remembering(Base):
    """A base that computes features of a prompt once, so that methods can be compared and timed without the pass."""

    known: dict[tuple[int, ...], torch.Tensor]

    def features(self, prompts: Sequence[Tokens]) -> torch.Tensor:
        """See `Base.features`."""
        known = vars(self).setdefault("known", {})
        new = list({tuple(prompt): prompt for prompt in prompts if tuple(prompt) not in known}.values())
        if new:
            known.update(zip(map(tuple, new), super().features(new), strict=True))
        return torch.stack([known[tuple(prompt)] for prompt in prompts])


def main() -> None:
    """Measure and save; fails if routing by prototypes is worse than it may be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--costly", type=int, default=20)
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(OWN), help="leave the figures of the others as they are")
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    with scratch() as work:
        missed = measure(given.store or work / "store", given)
    if missed:
        raise SystemExit(f"not within the limits: {', '.join(missed)}")


def measure(store: Path, given: argparse.Namespace) -> list[str]:
    """Measure and save one method after another; what prototypes miss."""
    pack(store)
    model = transformers.AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2())
    base = Remembering(model, tokenizer, HostSkills(model, store, "main"))
    tasks = task_prompts(given.examples)
    teach(store, base, {name: shown for name, (shown, _) in tasks.items()})
    held_out = {name: asked for name, (_, asked) in tasks.items()}
    arguments = f"--prompts {given.prompts} --costly {given.costly} --examples {given.examples}"
    figures: dict[str, Any] = {"examples": given.examples, "layer": base.layer, "methods": {}}
    if set(given.methods) != set(OWN):
        figures["methods"] = results.load("routing")["figures"]["methods"]
    for method in given.methods:
        few = {"prototype": given.prompts, "linear": given.prompts, "likelihood": given.costly}
        count = few.get(method, given.prompts * 2 // 5)
        figures["methods"][method] = measure_method(
            method, base, store, {name: texts[:count] for name, texts in held_out.items()}, unrelated_texts(count)
        )
        results.save("routing", figures, arguments=arguments, machine=True)
    return _missed(figures["methods"]["prototype"])


def pack(store: Path) -> None:
    """Pack the skills, unless they are there."""
    present = {each.name for each in skillpack.list(store=store)} if store.exists() else set()
    for name, recipe in {**COURSE, SIXTH: FRENCH_NUMBERS_SHORT}.items():
        if name not in present:
            skillpack.pack(smollm2(), fine_tune(recipe), name, size=SIZE, store=store)


def task_prompts(examples: int) -> dict[str, tuple[list[str], list[str]]]:
    """For each task its examples and its held-out prompts."""
    return {
        name: (
            [each.prompt for each in TASKS[name].calibration()[:examples]],
            [each.prompt for each in TASKS[name].held_out()],
        )
        for name in [*NAMES, SIXTH]
    }


def teach(store: Path, base: Base, examples: Mapping[str, Sequence[str]]) -> None:
    """Attach examples to the skills, unless some are there."""
    repository = open_existing(store)
    for name, texts in examples.items():
        found = repository.resolve(name)
        skill = open_skill(repository, found.descriptor.digest, name)
        if find_examples(repository, skill.digest, base) is not None:
            continue
        attach_prompts(repository, found.descriptor, skill, base, texts, refined=True)


def measure_method(
    method: str,
    base: Base,
    store: Path,
    held_out: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Accuracy, abstention, time, and what a sixth skill changes."""
    router = SkillRouter(base, OWN[method](base), store=store, branch="main")
    for name in NAMES:
        router.add(name)
    mine = {name: choices(router, held_out[name]) for name in NAMES}
    unknown = {kind: choices(router, texts) for kind, texts in others.items()}
    every = [text for name in NAMES for text in held_out[name]]
    known = method in {"prototype", "linear"}
    milliseconds = time_of(router, every[:: max(1, len(every) // 20)], 5 if known else 1)
    router.add(SIXTH)
    after = {name: choices(router, held_out[name]) for name in NAMES}
    changed = [one != other for name in NAMES for one, other in zip(mine[name], after[name], strict=True)]
    rest = [choice is None for found in unknown.values() for choice in found]
    return {
        "prompts": sum(map(len, mine.values())),
        "accuracy": mean([choice == name for name, found in mine.items() for choice in found]),
        "by_task": {name: mean([choice == name for choice in found]) for name, found in mine.items()},
        "unrelated": len(rest),
        "abstains": mean(rest),
        "by_kind": {kind: mean([choice is None for choice in found]) for kind, found in unknown.items()},
        "sixth": mean([choice == SIXTH for choice in choices(router, held_out[SIXTH])]),
        "changed": mean(changed),
        "milliseconds": milliseconds,
        "thresholds": {name: round(value, 3) for name, value in router.thresholds.items()},
    }


def choices(router: SkillRouter, texts: Sequence[str]) -> list[str | None]:
    """The skill of each prompt; None for the base."""
    return [route.choices[0].name if route.choices else None for route in router.route(texts)]


def time_of(router: SkillRouter, texts: Sequence[str], rounds: int) -> float:
    """Milliseconds to route a prompt; without the base's pass, where its features are known already."""
    found = []
    for text in texts:
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            router.route([text])
            seconds.append(time.perf_counter() - started)
        found.append(min(seconds))
    return round(1e3 * statistics.median(found), 2)


def mean(values: Sequence[bool]) -> float:
    """Share that is true."""
    return round(sum(values) / len(values), 4)


def _missed(figures: dict[str, Any]) -> list[str]:
    low = [name for name in ("accuracy", "abstains") if figures[name] < LIMITS[name]]
    return low + [name for name in ("changed", "milliseconds") if figures[name] > LIMITS[name]]


if __name__ == "__main__":
    main()
