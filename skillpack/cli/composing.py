"""The command `compose`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import skillpack
from skillpack.cli.compose_documents import compose_document
from skillpack.cli.console import counted, human
from skillpack.cli.learning_methods import learned_options, learns
from skillpack.cli.options import dry_run_option, history_options, output_options, parse_size, store_options
from skillpack.composing.names import LEARNED
from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.composing.report import ComposeReport


@click.command(
    short_help="Make one skill of several.",
    epilog="Example: skillpack compose math=0.7 code=0.3 --method ties --option density=0.3 --name both",
)
@click.argument("skills", nargs=-1, required=True, metavar="SKILL...")
@click.option("--name", metavar="NAME", help="Name of the composed skill.")
@click.option("--method", default="sum", metavar="METHOD", help="How skills become one.", show_default=True)
@click.option("--weights", metavar="NUMBERS", help="Weights in the order of the skills: 0.7,0.3.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the method; may be repeated.")
@click.option("--seed", type=click.IntRange(0), metavar="NUMBER", help="Of random masks; short for --option seed=.")
@click.option("--task", metavar="NAME", help="With emr, tall-masks and twin: what is this skill's own.")
@click.option("--size", type=parse_size, metavar="SIZE", help="Take at most 5MB, 2.5MiB, 500kB or this many bytes.")
@click.option("--base", type=click.Path(), metavar="MODEL", help="The base; needed where skills are kept bit for bit.")
@click.option("--again", is_flag=True, help="Compose a skill once more by its recipe, and compare; nothing is stored.")
@learned_options
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Tensors at a time; one per core by default.")
@click.option("--device", default="cpu", metavar="DEVICE", help="Torch device, such as cuda:1.", show_default=True)
@history_options
@store_options
@dry_run_option
@output_options
def compose(
    skills: tuple[str, ...],
    *,
    name: str | None,
    method: str,
    weights: str | None,
    options: tuple[str, ...],
    seed: int | None,
    task: str | None,
    size: int | None,
    base: str | None,
    again: bool,
    data: tuple[str, ...],
    steps: int,
    batch: int,
    max_tokens: int,
    workers: int | None,
    device: str,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Make one skill of several skills of one base: math=0.7 code=0.3.

    METHOD is sum (task arithmetic), average, negation, ties, dare, breadcrumbs, pcb, consensus, tall-masks, emr, twin
    or layer-swapping; docs/compose.md says what each does, with its paper and its options. They need no data. The
    result is a skill like any other. adamerging, atlas, self-positioning, concrete and localise learn from --data on
    the live model; docs/compose-learned.md is about these.

    Without --size it is as faithful as its parts: a weighted sum keeps their streams as they are, everything else is
    coded with the precision that they have. With --size the whole skill takes at most that on disk.

    Norms and other small tensors of 16-bit models are kept bit for bit, as distances from the base's values, so that
    --base has to be given for them. What cannot be added, as new tensors and new tokens, is taken from the skill that
    has it; skills that want different things there are refused.

    How it was made is in the skill, and skillpack show prints it. --again NAME composes it once more from the library
    and says whether the same skill comes out; the exit code is 1 if not. In Python: skillpack.recompose. A composition
    that was interrupted goes on when the same command is run again, within 14 days.
    """
    if again:
        _again(skills, output, base=base, store=store, branch=branch, workers=workers, device=device)
        return
    if name is None:
        raise click.UsageError("Missing option '--name'.")
    common: dict[str, Any] = {
        "method": method,
        "options": _options(options, None if method in LEARNED else seed),
        "size": size,
        "base": base,
        "store": store,
        "branch": branch,
        "message": message,
        "author": author,
        "workers": workers,
        "device": device,
        "dry_run": dry_run,
    }
    with output.progress() as progress:
        if learns(method, data, base, weights=weights, task=task):
            report = skillpack.learned_compose(
                skills,
                name,
                data=data,
                steps=steps,
                batch=batch,
                max_tokens=max_tokens,
                seed=seed or 0,
                learn_device=device,
                progress=progress,
                **common,
            )
        else:
            report = skillpack.compose(skills, name, weights=_weights(weights), task=task, progress=progress, **common)
    output.result(compose_document(report, dry_run=dry_run), *_summary(report, dry_run=dry_run))


def _again(
    skills: tuple[str, ...],
    output: Output,
    *,
    base: str | None,
    store: str | None,
    branch: str,
    workers: int | None,
    device: str,
) -> None:
    if len(skills) != 1:
        raise UsageError("--again composes one skill once more", hint="Write skillpack compose --again NAME")
    with output.progress() as progress:
        report = skillpack.recompose(
            skills[0], base=base, store=store, branch=branch, workers=workers, device=device, progress=progress
        )
    said = "the same skill" if report.same else "another skill"
    output.result(
        compose_document(report, dry_run=True),
        f"composing {report.name} again gives {said}: {report.digest}",
        *([] if report.same else [f"the library has {report.expected}"]),
    )
    if not report.same:
        raise click.exceptions.Exit(1)


def _options(options: tuple[str, ...], seed: int | None) -> dict[str, str | int]:
    found: dict[str, str | int] = {} if seed is None else {"seed": seed}
    for text in options:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{text!r} is no option", hint="Write --option density=0.5, for example.")
        found[key] = value
    return found


def _weights(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} are no weights", hint="Write --weights 0.7,0.3, for example.") from None


def _summary(report: ComposeReport, *, dry_run: bool) -> Iterator[str]:
    address = report.name if dry_run else f"{report.name}@{report.version}"
    parts = ", ".join(f"{part.name}={part.weight:g}" for part in report.recipe.parts)
    verb = "would compose" if dry_run else "composed"
    yield f"{verb} {address} of {parts} by {report.recipe.method}: {human(report.size)}"
    yield (
        f"{counted(len(report.manifest.tensors), 'tensor')} changed, {report.summed} with the streams of the parts, "
        f"{report.recoded} coded anew"
        + (f" (error at most {report.error:.2g} of the composed change)" if report.recoded else "")
    )
    if report.resumed:
        yield f"resumed: {counted(report.resumed, 'tensor')} had been worked on before an interruption"
    yield (
        "dry run: nothing was stored"
        if dry_run
        else f"next: skillpack show {report.name}; skillpack install {report.name} MODEL_DIR"
    )
