"""The command `surgery`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.options import output_options, store_options
from skillpack.cli.surgery_documents import surgery_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.composing.surgery.learning import SurgeryReport


@click.command(
    short_help="Bring a composed skill nearer to one of its experts.",
    epilog="Example: skillpack surgery both --expert math --data math.jsonl --base org/base",
)
@click.argument("skill", metavar="SKILL")
@click.option("--expert", metavar="SKILL", required=True, help="The skill of the task, alone.")
@click.option("--data", metavar="DATA", required=True, help="Texts of the task: .txt, .jsonl, a dataset, or org/name.")
@click.option("--base", type=click.Path(), metavar="BASE", required=True, help="The base of both skills.")
@click.option("--rank", type=click.IntRange(1), default=16, metavar="NUMBER", help="Of the module.", show_default=True)
@click.option(
    "--steps", type=click.IntRange(1), default=1000, metavar="NUMBER", help="Steps of learning.", show_default=True
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=16,
    metavar="NUMBER",
    help="Texts that a step of learning goes over.",
    show_default=True,
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.001,
    metavar="NUMBER",
    help="Rate of learning.",
    show_default=True,
)
@click.option(
    "--max-tokens", type=click.IntRange(2), default=256, metavar="NUMBER", help="Cut texts here.", show_default=True
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="NUMBER", help="Of what is drawn.", show_default=True
)
@click.option("--device", default="cpu", metavar="DEVICE", help="Torch device, such as cuda:1.", show_default=True)
@store_options
@output_options
def surgery(
    skill: str,
    *,
    expert: str,
    data: str,
    base: str,
    rank: int,
    steps: int,
    batch: int,
    rate: float,
    max_tokens: int,
    seed: int,
    device: str,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Learn a small module that brings a composed skill nearer to one of its experts, on the texts of that task.

    SKILL is the address of the composed skill. DATA is as for skillpack eval and needs no answers or labels. Both
    models read it once; what is learned is how their last representations differ, 2 x rank x width numbers
    (Representation Surgery, docs/compose-learned.md). Every fourth text is held out: the distance on these is printed,
    and a module that makes it no smaller is not kept.

    The module is attached to the skill, which stays as it is, and goes wherever the skill goes. It works on live
    models: with skillpack.open_surgery("both", "math").applied(model): ….
    """
    with output.trust_warnings(), output.progress() as progress:
        report = skillpack.learn_surgery(
            skill,
            expert,
            data,
            base,
            rank=rank,
            steps=steps,
            batch=batch,
            rate=rate,
            max_tokens=max_tokens,
            seed=seed,
            device=device,
            store=store,
            branch=branch,
            progress=progress,
        )
    output.result(surgery_document(report), *_summary(report))


def _summary(report: SurgeryReport) -> Iterator[str]:
    gone = 1 - report.after / report.before
    yield f"attached a module of rank {report.rank} for {report.task} to {report.name}, {human(report.nbytes)}"
    yield (
        f"distance from {report.task}: {report.before:.4g} before, {report.after:.4g} with it ({gone:.1%} less), "
        f"on {counted(report.held_out, 'text')}"
    )
    yield f'next: with skillpack.open_surgery("{report.name}", "{report.task}").applied(model): …'
