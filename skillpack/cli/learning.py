"""The commands `learn` and `learn-stream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.learning_documents import learn_document, preferred_document, stream_document
from skillpack.cli.options import output_options, parse_size, store_options
from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.cli.options import Function
    from skillpack.learning import LearnReport, Transfer


def _size_options(function: Function) -> Function:
    """Add how large each skill may be."""
    size = click.option("--size", metavar="SIZE", help="Bytes that each skill may take, such as 5MB.")
    share = click.option(
        "--share", type=float, metavar="NUMBER", help="The same as a share of the base; by default 0.02."
    )
    return size(share(function))


def _training_options(function: Function) -> Function:
    """Add what `skillpack.Training` takes for every method."""
    number: dict[str, Any] = {"metavar": "NUMBER", "show_default": True}
    for option in (
        click.option("--device", default="cpu", metavar="DEVICE", help="Torch device that trains.", show_default=True),
        click.option("--seed", type=int, default=0, help="Of orders and new weights.", **number),
        click.option("--max-tokens", type=click.IntRange(2), default=512, help="Cut texts here.", **number),
        click.option("--rate", type=float, metavar="NUMBER", help="Learning rate; by default 1e-4 (LoRA: 1e-3)."),
        click.option("--batch", type=click.IntRange(1), default=16, help="Texts for a step.", **number),
    ):
        function = option(function)
    return function


@click.command(
    short_help="Learn task after task, forgetting none.",
    epilog="Example: skillpack learn tasks.yaml --base org/base --output learned",
)
@click.argument("tasks", metavar="[TASKS]", required=False, type=click.Path())
@click.option("--base", type=click.Path(), metavar="BASE", help="The model that every task starts from.")
@click.option("-o", "--output", "folder", type=click.Path(), metavar="FOLDER", help="Where the report goes.")
@_size_options
@click.option(
    "--calibrate", type=click.IntRange(0), default=0, metavar="NUMBER", help="Pack with so many of a task's texts."
)
@click.option("--lora", is_flag=True, help="Train LoRA adapters with PEFT instead of every weight.")
@click.option("--rank", type=click.IntRange(1), default=16, metavar="NUMBER", help="Their rank.", show_default=True)
@click.option(
    "--epochs", type=click.IntRange(1), default=3, metavar="NUMBER", help="Times each text is seen.", show_default=True
)
@click.option("--steps", type=click.IntRange(1), metavar="NUMBER", help="Steps of the optimiser, instead of epochs.")
@_training_options
@click.option("--route", "router", metavar="METHOD", help="Also measure with a router: prototype, arrow or others.")
@click.option("--again", is_flag=True, help="Measure all skills anew after each task.")
@click.option("--no-plot", is_flag=True, help="Draw no pictures.")
@click.option("--prefer", metavar="A=0.7,B=0.3", help="Make one skill of several, by preferences that add up to 1.")
@click.option("--name", metavar="NAME", help="Name of the skill that --prefer makes.")
@click.option("--author", metavar="NAME", help="Who, for the history; by default your login name.")
@store_options
@output_options
def learn(
    tasks: str | None,
    base: str | None,
    folder: str | None,
    *,
    size: str | None,
    share: float | None,
    calibrate: int,
    lora: bool,
    router: str | None,
    again: bool,
    no_plot: bool,
    prefer: str | None,
    name: str | None,
    author: str | None,
    store: str | None,
    branch: str,
    output: Output,
    **training: Any,
) -> None:
    """Learn tasks one after another: each is trained from the frozen base, packed, measured and committed as a skill.

    TASKS is a .yaml or .json file with a list of tasks, each with "name", "train" and "held_out" (files as for
    skillpack eval, relative to the list) and perhaps "score"; or a folder with a folder for each task that holds
    train.jsonl and held_out.jsonl. The score is exact (the answer, word for word), number (the last number of the
    answer), label, or likelihood (of the answer's tokens, geometric mean).

    Every task starts from the base, so none can harm another: with tasks named, backward transfer is 0. --route also
    measures without names, each prompt being answered with the skill that a router picks. Average, backward and forward
    transfer are those of Lopez-Paz & Ranzato (2017), with the base in the place of a network that knows nothing.

    FOLDER gets learn.json and pictures of the scores. A run that was interrupted goes on there after the last task that
    was finished, and tasks can be added at the end of the list. A task that fails leaves the library as it was.

    --prefer makes a trade-off between skills without training: a convex combination, committed under --name. BASE is
    needed there only if skills hold tensors bit for bit.
    """
    if prefer is None and tasks is None:
        raise UsageError("there is nothing to do", hint="Give a list of tasks, or --prefer A=0.7,B=0.3 --name NAME.")
    if (prefer is None) != (name is None):
        raise UsageError("--prefer and --name belong together", hint="Such as --prefer math=0.7,code=0.3 --name both.")
    wanted = None if prefer is None else _preferences(prefer)
    report = None
    if tasks is not None:
        if base is None or folder is None:
            raise UsageError("tasks need --base and --output", hint="Such as --base org/base --output learned.")
        goal: dict[str, Any] = {"size": None if size is None else parse_size(size), "share": share}
        goal["calibrate"] = calibrate
        options: dict[str, Any] = {"router": router, "again": again, "plot": not no_plot, "author": author, **goal}
        with output.progress() as progress:
            how = _training(lora=lora, **training)
            report = skillpack.learn(
                tasks, base, folder, training=how, store=store, branch=branch, progress=progress, **options
            )
    preferred = []
    if wanted is not None and name is not None:
        made = skillpack.prefer(wanted, name, base=base, store=store, branch=branch, author=author)
        preferred.append(preferred_document(name, made.digest, wanted))
    if output.as_json:
        output.document(learn_document(report, preferred))
        return
    if report is not None:
        _print(report, output)
    output.say(
        *(f"made {each['name']} by preferences; next: skillpack install {each['name']} MODEL_DIR" for each in preferred)
    )


@click.command(
    short_help="Learn from texts that nobody has divided into tasks.",
    epilog="Example: skillpack learn-stream texts.jsonl --base org/base --name week",
)
@click.argument("data")
@click.option("--base", type=click.Path(), metavar="BASE", required=True, help="The model that every task starts from.")
@click.option("--name", metavar="NAME", default="task", help="Skills are NAME-1, NAME-2, ...", show_default=True)
@_size_options
@_training_options
@click.option(
    "--limit",
    type=click.FloatRange(0, min_open=True),
    default=4.0,
    metavar="NUMBER",
    help="Standard deviations above the mean that a suspicious loss is.",
    show_default=True,
)
@click.option(
    "--run",
    type=click.IntRange(1),
    default=3,
    metavar="NUMBER",
    help="Suspicious batches in a row that make a new task.",
    show_default=True,
)
@click.option(
    "--window",
    type=click.IntRange(5),
    default=30,
    metavar="NUMBER",
    help="Losses that the mean is of.",
    show_default=True,
)
@click.option("--author", metavar="NAME", help="Who, for the history; by default your login name.")
@store_options
@output_options
def learn_stream(
    data: str,
    *,
    base: str,
    name: str,
    size: str | None,
    share: float | None,
    limit: float,
    run: int,
    window: int,
    author: str | None,
    store: str | None,
    branch: str,
    output: Output,
    **training: Any,
) -> None:
    """Learn from texts as they come, in batches, and make a skill of each task that is noticed.

    DATA is as for skillpack eval, without labels; its order counts, and each batch is learned from once. When losses
    rise significantly, a new task has begun: a known one whose losses fit learns on, as the next version of its skill,
    and otherwise a new skill starts from the base. What is learned of one task never gets into the skill of another.
    Skills are committed as soon as their part of the stream ends, and are not measured. The last 32 prompts of each are
    attached to it, for routers.
    """
    with output.progress() as progress:
        segments = skillpack.learn_stream(
            data,
            base,
            name,
            training=_training(lora=False, **training),
            size=None if size is None else parse_size(size),
            share=share,
            limit=limit,
            run=run,
            window=window,
            store=store,
            branch=branch,
            author=author,
            progress=progress,
        )
    if output.as_json:
        output.document(stream_document(segments))
        return
    output.table(
        {"skill": "left", "batches": "right", "task": "left", "first loss": "right", "last loss": "right"},
        [
            (
                _label(each.name, each.version),
                f"{each.start}-{each.stop - 1}",
                "known" if each.returned else "new",
                _number(each.losses[0]),
                _number(each.losses[-1]),
            )
            for each in segments
        ],
    )
    tasks = len({each.name for each in segments})
    output.say(f"{counted(tasks, 'task')} noticed; next: skillpack install {segments[-1].name} MODEL_DIR")


def _preferences(text: str) -> dict[str, float]:
    from skillpack.learning.preferring import parse_preferences

    return parse_preferences(text)


def _training(*, lora: bool, rate: float | None, **settings: Any) -> Any:
    from skillpack.learning import Training

    return Training("lora" if lora else "full", learning_rate=rate, **settings)


def _print(report: LearnReport, output: Output) -> None:
    names = [task.name for task in report.tasks]
    columns: dict[str, Any] = {"skill": "left", "size": "right", "base": "right", "tuned": "right", "score": "right"}
    output.table(
        columns,
        [
            (_label(task.name, task.version), human(task.size), _number(task.base), _number(task.tuned), _number(own))
            for task, own in zip(report.tasks, report.named.scores[-1], strict=True)
        ],
    )
    for title, transfer in (("tasks named", report.named), (f"router: {report.router}", report.routed)):
        if transfer is not None:
            output.lines("", *_figures(title, transfer))
            output.table(
                {"after": "left", **dict.fromkeys(names, "right")},
                [(name, *map(_number, row)) for name, row in zip(names, transfer.scores, strict=True)],
            )
    if report.routing:
        shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(names, report.routing, strict=True))
        output.lines("", f"routed to their own skill: {shares}")
    done = counted(len(report.tasks), "task")
    output.say(f"{done}, {report.resumed} of them learned before; written: {report.written[0]}")


def _figures(title: str, transfer: Transfer) -> Iterator[str]:
    figures = {
        "average": _number(transfer.average),
        "backward transfer": _signed(transfer.backward_transfer),
        "forward transfer": _signed(transfer.forward_transfer),
    }
    yield f"{title}: " + ", ".join(f"{name} {value}" for name, value in figures.items())


def _label(name: str, version: int | None) -> str:
    return name if version is None else f"{name}@{version}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
