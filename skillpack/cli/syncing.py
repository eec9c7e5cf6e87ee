"""Commands that declare which skills a model has: lock, sync."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.history_documents import lock_document, sync_document
from skillpack.cli.options import dry_run_option, output_options, store_option, store_options
from skillpack.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.locked_skills import SyncReport

_FILE = "skills.lock"


@click.command(
    short_help="Write which skills a model shall have.", epilog="Example: skillpack lock math=0.7 code -o skills.lock"
)
@click.argument("skills", metavar="[SKILL...]", nargs=-1)
@click.option(
    "-o", "--output", "file", default=_FILE, metavar="FILE", type=click.Path(), show_default=True, help="File to write."
)
@store_options
@output_options
def lock(skills: tuple[str, ...], *, file: str, store: str | None, branch: str, output: Output) -> None:
    """Write down which skills a model shall have, by their digests, in a file to keep with the model's code.

    SKILL is an address, with a weight if it is not 1; without any, all skills of the branch are locked. Equal skills
    give equal bytes. skillpack sync makes a model match the file.
    """
    locked = skillpack.lock(skills, output=file, store=store, branch=branch)
    output.result(
        lock_document(locked, file),
        f"locked {listing(skill.label for skill in locked.skills)} in {file}",
        f"next: skillpack sync MODEL_DIR{'' if file == _FILE else f' --lock {shlex.quote(file)}'}",
    )


@click.command(short_help="Make a model match a lock.", epilog="Example: skillpack sync ./model --check")
@click.argument("model_dir", metavar="MODEL_DIR", type=click.Path())
@click.option(
    "--lock", "file", default=_FILE, metavar="FILE", type=click.Path(), show_default=True, help="The locked skills."
)
@click.option("--check", is_flag=True, help="Only compare, and end with exit code 1 if there is something to do.")
@click.option("--force", is_flag=True, help="Install also on another base than a skill's own; it is recorded.")
@store_option
@dry_run_option
@output_options
def sync(
    model_dir: str,
    *,
    file: str,
    check: bool,
    force: bool,
    store: str | None,
    dry_run: bool,
    output: Output,
) -> int:
    """Make the skills of a model exactly those that a file of skillpack lock names.

    Skills are installed, replaced, weighed anew and removed in one step, which is done whole or not at all. MODEL_DIR
    is the model folder.
    """
    with output.trust_warnings(), output.progress() as progress:
        found = skillpack.sync(
            model_dir, file, check=check, force=force, dry_run=dry_run, store=store, progress=progress
        )
    output.result(sync_document(found, check=check, dry_run=dry_run), *_summary(found, dry_run=dry_run))
    return 1 if check and not found.in_sync else 0


def _summary(found: SyncReport, *, dry_run: bool) -> Iterator[str]:
    would = "would " if dry_run or found.report is None else ""
    steps = found.steps
    for verb, names in (
        ("install", steps.install),
        ("replace", steps.replace),
        ("change the weight of", steps.reweigh),
        ("remove", steps.remove),
    ):
        if names:
            yield f"{would}{verb} {listing(names)}"
    for difference in found.differences:
        yield f"{difference.problem}: {difference.path}"
    if found.in_sync:
        yield f"{found.folder} has exactly the {counted(len(found.skills), 'locked skill')}"
    elif found.report is None:
        yield f"{found.folder} does not match"
    else:
        yield f"{counted(len(found.report.written), 'file')} written, {human(found.report.nbytes)}"
    if dry_run:
        yield "dry run: nothing was changed"
