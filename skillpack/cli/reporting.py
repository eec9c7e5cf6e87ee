"""The command `report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.comparing_documents import report_document
from skillpack.cli.console import counted, human
from skillpack.cli.options import output_options, store_options

if TYPE_CHECKING:
    from skillpack.cli.console import Output


@click.command(
    short_help="Write a page about the library.", epilog="Example: skillpack report -o library.html --learn learn.json"
)
@click.option(
    "-o",
    "--output",
    "page",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    default="report.html",
    help="The page; replaced if it is there.",
    show_default=True,
)
@click.option("--learn", multiple=True, type=click.Path(), metavar="FILE", help="learn.json of skillpack learn.")
@click.option("--sweep", multiple=True, type=click.Path(), metavar="FILE", help="curve.json of skillpack pack --sweep.")
@click.option("--eval", "evals", multiple=True, type=click.Path(), metavar="FILE", help="What eval --json printed.")
@click.option("--title", default="Skill library", metavar="TEXT", help="Heading of the page.", show_default=True)
@click.option("--base", type=click.Path(), metavar="BASE", help="The base, for what comes back bit for bit.")
@store_options
@output_options
def report(
    *,
    page: str,
    learn: tuple[str, ...],
    sweep: tuple[str, ...],
    evals: tuple[str, ...],
    title: str,
    base: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Write a page about the library: one HTML file that opens anywhere and needs no network.

    It shows the skills with their versions, sizes and signatures, where the bytes and the change of each skill are
    (layer by layer and by kind of module), which skills overlap, and what the files say that other commands wrote:
    curves of size and quality, measured skills, and what was learned task after task. Equal libraries and files give
    equal bytes.

    What is found out about a skill is kept in the store, so that only new skills take time.
    """
    with output.progress() as progress:
        written = skillpack.report(
            page,
            learn=learn,
            sweeps=sweep,
            evals=evals,
            title=title,
            base=base,
            store=store,
            branch=branch,
            progress=progress,
        )
    output.result(report_document(written), f"wrote {page} ({human(written.size)}, {counted(written.skills, 'skill')})")
