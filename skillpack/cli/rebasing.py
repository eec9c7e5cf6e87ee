"""The command `rebase`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.options import dry_run_option, history_options, output_options, store_options
from skillpack.cli.rebase_documents import rebase_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.rebasing import ByBase, Flips, LayerConflict, RebaseReport, TensorConflict


@click.command(
    short_help="Move a skill to a newer base.",
    epilog="Example: skillpack rebase math --onto org/base-v2 --from org/base --data held_out.jsonl",
)
@click.argument("skill", metavar="SKILL")
@click.option("--onto", type=click.Path(), metavar="NEW_BASE", required=True, help="The base that it is to go on.")
@click.option("--from", "base", type=click.Path(), metavar="OLD_BASE", help="The base that it was packed from.")
@click.option("--name", metavar="NAME", help="Name of the moved skill; by default its own, as its next version.")
@click.option("--data", metavar="DATA", help="Measure on texts what is kept: .txt, .jsonl, a dataset, or org/name.")
@click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="Use at most so many samples of the data.")
@click.option(
    "--max-tokens", type=click.IntRange(2), default=512, metavar="NUMBER", help="Cut samples here.", show_default=True
)
@click.option(
    "--top", type=click.IntRange(0), default=10, metavar="NUMBER", help="Rows of conflicts.", show_default=True
)
@click.option("--tensors", is_flag=True, help="List tensors there instead of layers.")
@click.option("--license", metavar="ID", help="SPDX identifier for the model card; by default as before.")
@history_options
@store_options
@dry_run_option
@output_options
def rebase(
    skill: str,
    *,
    onto: str,
    base: str | None,
    name: str | None,
    data: str | None,
    limit: int | None,
    max_tokens: int,
    top: int,
    tensors: bool,
    license: str | None,  # noqa: A002 - the option's name
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Move a skill to a newer base with the same tensors in the same shapes.

    The moved skill becomes the next version of the same name; the one before stays in the history and on models that
    have it. What was approximated is kept byte for byte. What was packed bit for bit, as small tensors and all of an
    --exact pack are, is coded anew as the new base plus the difference, for which OLD_BASE is needed; so it is for
    tokenizer and config files, whose changes are merged with those of the new base. What cannot be added is refused,
    and named.

    With --from, a table says how far the new base moved where the skill changes it: moved is the length of that
    movement in relation to the skill's own, cosine tells the directions apart (1 the same way, -1 back), opposed is the
    share of the skill's change in numbers that the new base moved the other way (50 % is chance where all moved), risk
    the share that it took back. Weights say little about what a model does:

    --data runs both bases, with the skill and without, over texts as for skillpack eval. Gain kept is what the skill
    gains in negative log-likelihood on the new base, as a share of what it gained on the old one. Negative flips are
    answers that were right, word for word, and are wrong now; positive ones the other way round; both are shares of all
    samples.
    """
    with output.progress() as progress:
        report = skillpack.rebase(
            skill,
            onto,
            base=base,
            name=name,
            data=data,
            max_tokens=max_tokens,
            samples=limit,
            store=store,
            branch=branch,
            message=message,
            author=author,
            license=license,
            dry_run=dry_run,
            progress=progress,
        )
    if output.as_json:
        output.document(rebase_document(report, dry_run=dry_run))
        return
    output.lines(*_figures(report))
    if top and report.conflicts.moved is not None:
        _table(report.conflicts.tensors if tensors else report.conflicts.layers, output, top)
    output.say(*_summary(report, dry_run=dry_run))


def _figures(report: RebaseReport) -> Iterator[str]:
    yield (
        f"{report.source}: {report.moved} of {counted(report.tensors, 'tensor')} have another base now; "
        f"{report.recoded} coded anew, {report.tensors - report.recoded} kept as they are"
    )
    conflicts = report.conflicts
    if conflicts.moved is not None:
        yield (
            f"the new base moved {conflicts.moved:.3g} times as far as the skill does; "
            f"cosine {_number(conflicts.cosine)}, opposed {_share(conflicts.opposed)}, risk {_share(conflicts.risk)}"
        )
    if report.flips is not None:
        yield from _flips(report.flips)
    yield from (f"note: {remark}" for remark in report.remarks)


def _flips(flips: Flips) -> Iterator[str]:
    predictions = "predicted tokens" if flips.task == "next token" else "predicted classes"
    yield f"{counted(flips.samples, 'sample')}, {flips.tokens:,} {predictions}"
    yield (
        f"KL from the old base with the skill: {flips.kl:.3g} nats {_interval(flips.kl_interval, '.3g')}, "
        f"agreement {flips.agreement:.2%}"
    )
    if flips.nll is not None:
        yield f"negative log-likelihood: {_by_base(flips.nll, '.4g')}"
    if flips.kept is not None:
        yield f"gain kept: {flips.kept:.2%}{_interval(flips.kept_interval, '.2%')}"
    if flips.right is not None:
        yield f"right: {_by_base(flips.right, '.2%')}"
    if flips.negative is not None:
        yield f"negative flips: {flips.negative:.2%}{_interval(flips.negative_interval, '.2%')}"
    if flips.positive is not None:
        yield f"positive flips: {flips.positive:.2%}{_interval(flips.positive_interval, '.2%')}"
    yield from (f"note: {remark}" for remark in flips.remarks)


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    if interval is None:
        return ""
    low, high = (f"{end:{form}}" for end in interval)
    return f" [{low}, {high}]"


def _by_base(figures: ByBase, form: str) -> str:
    names = {
        "old_base": "old base",
        "old": "old base with the skill",
        "new_base": "new base",
        "new": "new base with the skill",
    }
    known = [(names[key], value) for key, value in figures._asdict().items() if value is not None]
    return ", ".join(f"{name} {value:{form}}" for name, value in known)


def _table(rows: tuple[LayerConflict, ...] | tuple[TensorConflict, ...], output: Output, top: int) -> None:
    by_tensor = any(hasattr(row, "tensor") for row in rows)
    output.lines("")
    output.table(
        {
            "tensor" if by_tensor else "layer": "left",
            **({} if by_tensor else {"tensors": "right"}),
            **dict.fromkeys(("moved", "cosine", "opposed", "risk"), "right"),
        },
        [_row(row) for row in rows[:top]],
    )


def _row(row: LayerConflict | TensorConflict) -> list[str]:
    from skillpack.rebasing import LayerConflict

    head = [row.layer, str(row.tensors)] if isinstance(row, LayerConflict) else [row.tensor]
    return [*head, _number(row.moved), _number(row.cosine), _share(row.opposed), _share(row.risk)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _summary(report: RebaseReport, *, dry_run: bool) -> Iterator[str]:
    if report.same:
        yield f"nothing that {report.source} builds on differs, so that it is the same skill on this base"
    if dry_run:
        yield f"would rebase {report.source} as {report.name}: {human(report.size)}; dry run: nothing was stored"
        return
    yield f"rebased {report.source} as {report.name}@{report.version}: {human(report.size)}"
    yield f"next: skillpack install {report.name} MODEL_DIR"
