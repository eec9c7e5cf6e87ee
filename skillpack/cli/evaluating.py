"""The command `eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted
from skillpack.cli.documents import eval_document
from skillpack.cli.options import output_options, store_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.evaluating import ByModel, EvalReport


@click.command(
    name="eval",
    short_help="Measure a skill against its fine-tune.",
    epilog="Example: skillpack eval math --base org/base --tuned ./math-tuned --data held_out.jsonl",
)
@click.argument("skill", metavar="SKILL")
@click.option("--base", type=click.Path(), metavar="BASE", required=True, help="The model it was packed from.")
@click.option("--tuned", type=click.Path(), metavar="TUNED", required=True, help="The fine-tune it was packed from.")
@click.option("--data", metavar="DATA", required=True, help="A .txt or .jsonl file, a dataset's folder, or org/name.")
@click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="Use at most so many samples of the data.")
@click.option(
    "--max-tokens", type=click.IntRange(2), default=512, metavar="NUMBER", help="Cut samples here.", show_default=True
)
@click.option(
    "--top", type=click.IntRange(0), default=10, metavar="NUMBER", help="Rows of what hurts most.", show_default=True
)
@click.option("--tensors", is_flag=True, help="List tensors there instead of kinds of modules.")
@store_options
@output_options
def eval_(
    skill: str,
    *,
    base: str,
    tuned: str,
    data: str,
    limit: int | None,
    max_tokens: int,
    top: int,
    tensors: bool,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Install a skill on a temporary copy of its base, and measure how far it is from the fine-tune on texts.

    SKILL is an address, with a weight if it is not 1. BASE and TUNED are as for skillpack pack. A line of a .jsonl
    file, or a row of a dataset, has "messages", "prompt" with "completion", "prompt" alone (the fine-tune answers), or
    "text", for classifiers with a "label"; a .txt file has a text a paragraph. Several splits: org/name:test.

    KL is the mean divergence KL(tuned || packed) in nats for each predicted token, agreement the share of tokens whose
    most likely prediction is the fine-tune's, and the gain kept the share of what the fine-tune gained over the base in
    negative log-likelihood. 95 % intervals come from drawing whole samples again. What hurts most splits the KL among
    tensors, to first order; a part below zero makes up for errors elsewhere.
    """
    with output.progress() as progress:
        report = skillpack.evaluate(
            skill,
            base,
            tuned,
            data,
            store=store,
            branch=branch,
            max_tokens=max_tokens,
            samples=limit,
            tensors=output.as_json or top > 0,
            progress=progress,
        )
    if output.as_json:
        output.document(eval_document(report))
        return
    output.lines(*_summary(report))
    if top:
        _print_blame(report, output, top, by_tensor=tensors)


def _summary(report: EvalReport) -> Iterator[str]:
    predictions = "predicted tokens" if report.task == "next token" else "predicted classes"
    yield f"{report.skill}: {counted(report.samples, 'sample')}, {report.tokens:,} {predictions}"
    yield f"KL: {report.kl:.3g} nats {_interval(report.kl_interval, '.3g')}"
    yield f"agreement: {report.agreement:.2%} {_interval(report.agreement_interval, '.2%')}"
    if report.perplexity is not None:
        yield f"perplexity: {_models(report.perplexity, '.4g')}"
    if report.accuracy is not None:
        yield f"accuracy: {_models(report.accuracy, '.2%')}"
    if report.kept is not None:
        interval = "" if report.kept_interval is None else f" {_interval(report.kept_interval, '.2%')}"
        yield f"gain kept: {report.kept:.2%}{interval}"
    yield from (f"note: {remark}" for remark in report.remarks)


def _interval(interval: tuple[float, float], form: str) -> str:
    low, high = (f"{end:{form}}" for end in interval)
    return f"[{low}, {high}]"


def _models(figures: ByModel, form: str) -> str:
    known = [(name, value) for name, value in figures._asdict().items() if value is not None]
    return ", ".join(f"{name} {value:{form}}" for name, value in known)


def _print_blame(report: EvalReport, output: Output, top: int, *, by_tensor: bool) -> None:
    from skillpack.kinds import kind_names

    kinds = kind_names(tensor.name for tensor in report.tensors)
    groups: dict[str, list[float]] = {}
    for tensor in report.tensors:
        groups.setdefault(tensor.name if by_tensor else kinds[tensor.name], []).append(tensor.kl)
    order = sorted(groups, key=lambda name: (-sum(groups[name]), name))
    total = sum(tensor.kl for tensor in report.tensors)
    output.lines("", f"what hurts most (parts add up to {total:.3g} nats):")
    output.table(
        {"tensor" if by_tensor else "modules": "left", "tensors": "right", "KL": "right", "share": "right"},
        [
            (name, str(len(groups[name])), f"{sum(groups[name]):.3g}", _share(sum(groups[name]), total))
            for name in order[:top]
        ],
    )


def _share(part: float, total: float) -> str:
    return f"{part / total:.1%}" if total > 0 else ""
