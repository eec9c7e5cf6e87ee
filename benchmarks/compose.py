"""Composition: memory on a large base, and what is kept of two real skills.

    python -m benchmarks.compose memory [--size 3GB] [--skills 10] [--layers N] [--methods sum,ties] [--store FOLDER]
    python -m benchmarks.compose kept [--store FOLDER]

Memory: skills of a synthetic base, each a change of rank 8 in every matrix, are composed by a command of its own for
each method; anonymous memory is looked at every 20 ms. What bounds it is the largest tensor and the number of skills,
so that `--layers` may leave out layers, which are all alike. Every composition is killed once it has worked on half of
the matrices, and started again: figures are those of both runs.

Kept: Spanish numbers and facts about cities, 2 MB each, on SmolLM2-135M-Instruct become one skill; share of each one's
gain in negative log-likelihood over the base that the composed skill keeps, on 32 held-out prompts.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import skillpack
from benchmarks import results
from benchmarks.comparing.pairs import chats
from benchmarks.folders import scratch
from benchmarks.process import COMMAND, Usage, run
from benchmarks.synthetic import Architecture
from recipes.finetune import fine_tune
from recipes.models import smollm2
from recipes.suite import COURSE
from recipes.tasks import TASKS
from skillpack.checkpoint import TensorInfo
from skillpack.cli.options import parse_size
from skillpack.composing.tensors import ComposedDelta
from skillpack.delta import Change, Renaming
from skillpack.library import commit_skills
from skillpack.packing.packer import Goal, Packer
from skillpack.packing.payload import put_skill
from skillpack.settings import unfinished_folder
from skillpack_store import Repository, digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORKERS = 2
_ALLOWANCE = 400_000_000
_COPIES = 6
"""Times the largest tensor, in the base's 16 bits, that may be in memory: three times in fp32."""
METHODS = ("sum", "average", "ties", "dare", "breadcrumbs", "pcb", "consensus", "tall-masks", "emr", "layer-swapping")
_RANK = 8
_STRENGTH = 4e-4
_STEP = 2e-3
_PARTS = ("few-city-facts", "spanish-numbers")
_KEPT = ("sum", "average", "ties", "pcb", "emr")


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    memory = commands.add_parser("memory")
    memory.add_argument("--size", default="3GB")
    memory.add_argument("--skills", type=int, default=10)
    memory.add_argument("--layers", type=int)
    memory.add_argument("--methods", default=",".join(METHODS))
    memory.add_argument(
        "--store", type=Path, help="of the synthetic skills of all layers; those that it lacks are drawn"
    )
    memory.add_argument("--name", default="compose_memory", help="of the file with the figures")
    kept = commands.add_parser("kept")
    kept.add_argument("--store", type=Path, help="with the two skills; by default they are packed")
    kept.add_argument("--prompts", type=int, default=32)
    given = parser.parse_args()
    if given.command == "memory" and given.store and given.layers is not None:
        parser.error("a --store holds skills of all layers; leave out --layers or --store")
    with scratch() as work:
        if given.command == "kept":
            results.save("compose", kept_shares(given.store or work / "store", given.prompts), arguments="kept")
            return
        architecture = Architecture.of_size(parse_size(given.size))
        if given.layers is not None:
            architecture = replace(architecture, layers=given.layers)
        store = given.store or work / "store"
        figures = memory_of(work, store, architecture, given.skills, given.methods.split(","))
    # Where the skills lie changes nothing.
    layers = "" if given.layers is None else f" --layers {given.layers}"
    arguments = f"memory --size {given.size} --skills {given.skills}{layers} --methods {given.methods}"
    results.save(given.name, figures, module="compose", arguments=arguments, machine=True)
    if any(found["peak_anonymous_bytes"] > figures["limit_bytes"] for found in figures["methods"].values()):
        raise SystemExit("a method takes more memory than the limit")


def memory_of(work: Path, store: Path, architecture: Architecture, skills: int, methods: list[str]) -> dict[str, Any]:
    """Peak memory and time of each method, and whether an interrupted run goes on where it was."""
    names = [f"skill-{number}" for number in range(skills)]
    present = _names(store)
    for number, name in enumerate(names):
        if name not in present:
            draw_skill(store, name, architecture, number)
            print(name, flush=True)
    environment = {"SKILLPACK_HOME": str(work / "home")}
    sizes = [2 * math.prod(shape) for shape in architecture.tensors().values()]
    figures: dict[str, Any] = {
        "checkpoint_bytes": sum(sizes),
        "largest_tensor_bytes": max(sizes),
        "layers": architecture.layers,
        "skills": skills,
        "workers": _WORKERS,
        "limit_bytes": _ALLOWANCE + _COPIES * max(sizes),
        "methods": {},
    }
    matrices = sum(len(shape) == 2 for shape in architecture.tensors().values())
    for method in methods:
        command = _command(names[:2] if method == "layer-swapping" else names, method, store)
        killed, finished = _killed(command, environment, matrices // 2)
        runs = [killed, run(command, environment)]
        figures["methods"][method] = {
            "peak_anonymous_bytes": max(usage.anonymous for usage in runs),
            "seconds": round(sum(usage.seconds for usage in runs), 1),
            "matrices": matrices,
            "finished_before_a_kill": finished,
            "resumed": json.loads(runs[-1].said)["resumed"],
        }
        print(method, figures["methods"][method], flush=True)
    return figures


def _command(parts: list[str], method: str, store: Path) -> list[str]:
    options = ["--option", "bottom=0", "--option", "top=0", "--option", "transition=0"]
    extra = options if method == "layer-swapping" else []
    where = ["--name", "all", "--store", str(store), "--workers", str(_WORKERS), "--json"]
    return [COMMAND, "compose", *parts, "--method", method, *extra, *where]


def _killed(command: list[str], environment: Mapping[str, str], enough: int) -> tuple[Usage, int]:
    """Kill a composition once it has worked on so many tensors; also how many there were in the end.

    What is coded anew leaves analyses, and a sum the results of its checks.
    """
    folder = Path(environment["SKILLPACK_HOME"]) / unfinished_folder().name

    def finished() -> int:
        analysed = len(list(folder.glob("compose-*/*.analysis")))
        return max([analysed, *(len(path.read_bytes().splitlines()) for path in folder.glob("compose-*/checked.txt"))])

    usage = run(command, environment, kill=lambda: finished() >= enough)
    if not usage.killed:
        raise SystemExit(f"{' '.join(command)} ended before it could be killed")
    return usage, finished()


@dataclass(frozen=True, eq=False)
class Drawn:
    """A fine-tune whose changes are random products; see `skillpack.checkpoint.Checkpoint`."""

    shapes: Mapping[str, tuple[int, ...]]
    seed: int
    origin: str = "drawn"
    folder: None = None
    code_files: tuple[str, ...] = ()

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        """Nothing of them is on disk."""
        return {
            name: TensorInfo(name, "BF16", shape, Path(), 2 * math.prod(shape)) for name, shape in self.shapes.items()
        }

    @property
    def companions(self) -> dict[str, Path]:
        """None."""
        return {}

    def factors(self, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """A product with falling strengths."""
        rows, columns = self.shapes[name]
        draw = np.random.default_rng([self.seed, *name.encode()])
        left = draw.normal(size=(rows, _RANK)) * 2.0 ** -np.arange(_RANK) * _STRENGTH
        return left, draw.normal(size=(_RANK, columns))

    def update(self, name: str) -> np.ndarray[Any, Any]:
        """The product."""
        left, right = self.factors(name)
        return left.astype(np.float32) @ right.astype(np.float32)

    def inherits(self, name: str) -> None:
        """None: everything changes."""

    def read(self, name: str) -> Any:
        """Not to be asked for."""
        raise KeyError(name)

    def lora(self, name: str) -> None:
        """None: these are no adapter's."""


def draw_skill(store: Path, name: str, architecture: Architecture, seed: int) -> None:
    """Put a skill of random low-rank changes of every matrix into a store."""
    shapes = {tensor: shape for tensor, shape in architecture.tensors().items() if len(shape) == 2}
    drawn = Drawn(shapes, seed)
    digests = {tensor: digest_of(tensor.encode()) for tensor in shapes}
    delta = ComposedDelta(
        base=drawn,
        tuned=drawn,
        changes=tuple(Change(tensor, "BF16", shape, tensor) for tensor, shape in sorted(shapes.items())),
        gone=(),
        renaming=Renaming(),
        base_digests=digests,
        tuned_digests={tensor: digest_of(f"{tensor} {seed}".encode()) for tensor in shapes},
        files=(),
        code_files=(),
        marks=(digest_of(b"base"), digest_of(str(seed).encode())),
    )
    packed = Packer(delta, Goal()).coded_at(_STEP)
    repository = Repository.open_or_create(store)
    with repository.writing():
        skill = put_skill(repository, name, packed.manifest, packed.payload)
        commit_skills(repository, {name: skill}, branch="main", author="benchmark", message=name)
    packed.payload.close()


def kept_shares(store: Path, prompts: int) -> dict[str, Any]:
    """Share of each part's gain that stays, by method."""
    base = smollm2()
    tuned = {task: fine_tune(COURSE[task]) for task in _PARTS}
    present = _names(store)
    for task, folder in tuned.items():
        if task not in present:
            skillpack.pack(base, folder, task, size=2_000_000, store=store)
    parts = list(_PARTS)
    found: dict[str, Any] = {"alone": {task: _kept(task, task, (base, tuned[task]), store, prompts) for task in parts}}
    for method in _KEPT:
        report = skillpack.compose(parts, "both", method=method, base=base, store=store)
        found[method] = {
            "bytes": report.size,
            **{task: _kept("both", task, (base, tuned[task]), store, prompts) for task in parts},
        }
        print(method, found[method], flush=True)
    given_back = {}
    for task in parts:
        report = skillpack.compose(parts, "one", method="emr", task=task, base=base, store=store)
        given_back[task] = {"bytes": report.size, "kept": _kept("one", task, (base, tuned[task]), store, prompts)}
    return {"prompts": prompts, "skill_bytes": 2_000_000, **found, "emr, task given back": given_back}


def _names(store: Path) -> set[str]:
    return {skill.name for skill in skillpack.list(store=store)} if store.exists() else set()


def _kept(skill: str, task: str, models: tuple[Path, Path], store: Path, prompts: int) -> float | None:
    base, tuned = models
    samples = chats(TASKS[task].held_out()[:prompts])
    report = skillpack.evaluate(skill, base, tuned, samples, store=store, tensors=False)
    return None if report.kept is None else round(report.kept, 4)


if __name__ == "__main__":
    main()
