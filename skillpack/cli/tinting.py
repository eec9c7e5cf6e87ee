"""The command `tint`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.options import history_options, output_options, store_options
from skillpack.cli.tinting_documents import tint_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.composing.tinting.learning import TintReport


@click.command(
    short_help="Make one skill of several, and a layer for each of them.",
    epilog="Example: skillpack tint math code --data math.jsonl --data code.jsonl --base org/base --name both",
)
@click.argument("skills", nargs=-1, required=True, metavar="SKILL...")
@click.option("--name", metavar="NAME", required=True, help="Name of the composed skill.")
@click.option(
    "--data", multiple=True, required=True, metavar="DATA", help="Texts of a task; once for each skill, in their order."
)
@click.option("--base", type=click.Path(), metavar="BASE", required=True, help="The base of all skills.")
@click.option("--layer", metavar="TENSOR", help="What each task has its own of; by default the last matrix.")
@click.option(
    "--steps", type=click.IntRange(1), default=100, metavar="NUMBER", help="Steps of learning.", show_default=True
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=8,
    metavar="NUMBER",
    help="Texts of each task that a step draws.",
    show_default=True,
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    metavar="NUMBER",
    help="Rate of learning of the weights.",
    show_default=True,
)
@click.option(
    "--layer-rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.0001,
    metavar="NUMBER",
    help="Rate of learning of the layers.",
    show_default=True,
)
@click.option(
    "--max-tokens", type=click.IntRange(2), default=256, metavar="NUMBER", help="Cut texts here.", show_default=True
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, metavar="NUMBER", help="Of what is drawn.", show_default=True
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Tensors at a time; one per core by default.")
@click.option("--device", default="cpu", metavar="DEVICE", help="Torch device, such as cuda:1.", show_default=True)
@history_options
@store_options
@output_options
def tint(
    skills: tuple[str, ...],
    *,
    name: str,
    data: tuple[str, ...],
    base: str,
    layer: str | None,
    steps: int,
    batch: int,
    rate: float,
    layer_rate: float,
    max_tokens: int,
    seed: int,
    workers: int | None,
    device: str,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Make one skill of several, and a small skill for each of them that gives its task a layer of its own.

    Weights of the skills in each tensor and the tasks' layers are learned together, such that the model says what the
    skill of each task alone says (Model Tinting, docs/compose-learned.md). DATA is as for skillpack eval and needs no
    answers or labels. Every fourth text is held out: how far the model is from the task's skill on these is printed,
    and a layer that makes it no smaller is not kept.

    The composed skill is NAME, and the layer for a skill is NAME-SKILL, to be installed or grafted beside it:
    skillpack install both both-math MODEL_DIR.
    """
    with output.progress() as progress:
        report = skillpack.learn_tints(
            skills,
            name,
            data=data,
            base=base,
            how=skillpack.Tinting(layer=layer, rate=rate, layer_rate=layer_rate),
            steps=steps,
            batch=batch,
            max_tokens=max_tokens,
            seed=seed,
            device=device,
            store=store,
            branch=branch,
            message=message,
            author=author,
            workers=workers,
            progress=progress,
        )
    output.result(tint_document(report), *_summary(report))


def _summary(report: TintReport) -> Iterator[str]:
    shared = report.shared
    parts = ", ".join(part.name for part in shared.recipe.parts)
    yield f"composed {shared.name}@{shared.version} of {parts}: {human(shared.size)}"
    yield f"each task has its own {report.layer}; measured on {counted(report.held_out, 'held-out text')}:"
    for tint in report.tints:
        change = f"{tint.before:.4g} nats from {tint.task} without it, {tint.after:.4g} with it"
        if tint.name:
            yield f"  {tint.name}@{tint.version}, {human(tint.size)}: {change}"
        else:
            yield f"  not kept for {tint.task}: {change}"
    kept = [tint.name for tint in report.tints if tint.name]
    yield f"next: skillpack install {shared.name} {kept[0] if kept else ''}".rstrip() + " MODEL_DIR"
