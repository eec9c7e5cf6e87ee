"""Commands on model folders: install, remove, status."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.documents import install_document, status_document
from skillpack.cli.options import dry_run_option, output_options, store_options
from skillpack.errors import BusyFolderError, DamagedSkillError, ModifiedFolderError, UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skillpack.cli.console import Output
    from skillpack.installing import FolderStatus, InstallReport, SkillRecord


@click.command(
    short_help="Put skills on a model.",
    epilog="Example: skillpack install math code@3=0.7 ./model",
)
@click.argument("skills", metavar="SKILL...", nargs=-1, required=True)
@click.argument("model_dir", metavar="MODEL_DIR", type=click.Path())
@click.option("-o", "--output", "target", type=click.Path(), metavar="OUT", help="Make this new folder instead.")
@click.option("--force", is_flag=True, help="Install also on another base than the skill's own; it is recorded.")
@click.option("--hard-links", is_flag=True, help="With -o: share the bytes of weight files that stay the same.")
@store_options
@dry_run_option
@output_options
def install(
    skills: tuple[str, ...],
    model_dir: str,
    *,
    target: str | None,
    force: bool,
    hard_links: bool,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Put skills on a model, in place or as a new folder.

    SKILL is an address, with a weight if it is not 1: math, math@3, math=0.7. Several skills add up, also with those
    that are installed already; another version of an installed skill takes its place.

    MODEL_DIR is a model folder; with -o also a Hub id or a folder in the Hub's cache. The base's files are kept, and
    skillpack remove brings every byte of them back.

    Your policy decides whether a skill has to be signed (skillpack policy -h); --force does not change that.
    """
    with output.trust_warnings(), output.progress() as progress:
        report = skillpack.install(
            skills,
            model_dir,
            output=target,
            store=store,
            branch=branch,
            force=force,
            hard_links=hard_links,
            dry_run=dry_run,
            progress=progress,
        )
    output.result(install_document(report), *_install_summary(report, target or model_dir))


@click.command(
    short_help="Take skills off a model.",
    epilog="Example: skillpack remove math ./model",
)
@click.argument("skills", metavar="SKILL...", nargs=-1)
@click.argument("model_dir", metavar="MODEL_DIR", type=click.Path())
@click.option("--all", "every", is_flag=True, help="Take off all skills; then no SKILL is given.")
@dry_run_option
@output_options
def remove(skills: tuple[str, ...], model_dir: str, *, every: bool, dry_run: bool, output: Output) -> None:
    """Take skills off a model; with the last one every byte of the base is back.

    SKILL is the name of an installed skill or the start of its digest. MODEL_DIR is the model folder.
    """
    if every and skills:
        raise UsageError("--all takes off every skill, so none is named", hint="Leave out the names, or --all.")
    if not every and not skills:
        raise UsageError("No skill was given", hint=f"skillpack status {shlex.quote(model_dir)} lists those installed.")
    with output.progress() as progress:
        report = skillpack.remove(None if every else skills, model_dir, dry_run=dry_run, progress=progress)
    output.result(install_document(report), *_remove_summary(report, model_dir))


@click.command(
    short_help="Say what is installed on a model.",
    epilog="Example: skillpack status ./model --verify",
)
@click.argument("model_dir", metavar="MODEL_DIR", type=click.Path())
@click.option("--verify", is_flag=True, help="Hash every file instead of those whose size or time has changed.")
@output_options
@click.pass_context
def status(context: click.Context, model_dir: str, *, verify: bool, output: Output) -> None:
    """Say what is installed on a model, and whether its files are what they were after that.

    An interrupted install or removal is finished or undone first. The exit code is 0 if all is well, 1 if files were
    changed, 11 if another command is at work or was interrupted, 13 if what is kept for a removal is damaged.
    """
    with output.progress() as progress:
        found = skillpack.status(model_dir, verify=verify, progress=progress)
    if output.as_json:
        output.document(status_document(found))
    else:
        _print_status(found, output)
    context.exit(_status_code(found))


def _install_summary(report: InstallReport, model_dir: str) -> Iterator[str]:
    names = listing(f"{name} (another version)" if name in report.replaced else name for name in report.changed)
    yield f"{'would install' if report.dry_run else 'installed'} {names} on {report.folder}: {_written(report)}"
    yield f"{'installed then' if report.dry_run else 'installed now'}: {_installed(report.skills)}"
    yield _last(report, f"skillpack remove {report.changed[0]} {shlex.quote(model_dir)}")


def _remove_summary(report: InstallReport, model_dir: str) -> Iterator[str]:
    verb = "would remove" if report.dry_run else "removed"
    yield f"{verb} {listing(report.changed)} from {report.folder}: {_written(report)}"
    if report.skills:
        yield f"{'installed then' if report.dry_run else 'still installed'}: {_installed(report.skills)}"
    else:
        yield "no skill is left: every byte of the base " + ("would be back" if report.dry_run else "is back")
    yield _last(report, f"skillpack status {shlex.quote(model_dir)}")


def _written(report: InstallReport) -> str:
    done = f"{counted(len(report.written), 'file')} written, {human(report.nbytes)}" if report.written else ""
    back = f"{counted(len(report.restored), 'file')} of the base back in place" if report.restored else ""
    return "; ".join(filter(None, (done, back))) or "no file had to change"


def _last(report: InstallReport, command: str) -> str:
    return "dry run: nothing was changed" if report.dry_run else f"next: {command}"


def _installed(skills: Iterable[SkillRecord]) -> str:
    return listing(_named(skill) for skill in sorted(skills, key=lambda skill: skill.name))


def _named(skill: SkillRecord) -> str:
    return (skill.label or skill.name) + ("" if skill.weight == 1 else f"={skill.weight:g}")


def _print_status(found: FolderStatus, output: Output) -> None:
    if found.recovered:
        output.say("an interrupted command was finished or undone")
    if found.unfinished:
        output.say("another command is at work here, or was interrupted and cannot be finished now")
    if not found.managed:
        output.say(f"no skill is installed on {found.folder}", "next: skillpack install SKILL MODEL_DIR")
        return
    output.table(
        {"skill": "left", "version": "left", "weight": "right", "forced": "left", "digest": "left"},
        [
            (skill.name, skill.label, f"{skill.weight:g}", "yes" if skill.forced else "no", skill.digest)
            for skill in sorted(found.skills, key=lambda skill: skill.name)
        ],
    )
    output.lines(
        f"base: {found.base_fingerprint}",
        f"written: {counted(len(found.written), 'file')}, {human(found.written_bytes)}",
        f"kept of the base: {counted(len(found.originals), 'file')}, {human(found.kept_bytes)}, in {found.kept_in}",
        *(f"{difference.problem}: {difference.path}" for difference in found.differences),
    )
    if not found.differences:
        how = "by their hashes" if found.verified else "by size and time; --verify hashes them"
        output.lines(f"all files are as they were after the install ({how})")


def _status_code(found: FolderStatus) -> int:
    """The code that an install would end with for the same reason."""
    if found.unfinished:
        return BusyFolderError.exit_code
    if any(kind == "damaged skill" or path.startswith(f"{found.kept_in}/") for path, kind in found.differences):
        return DamagedSkillError.exit_code
    return ModifiedFolderError.exit_code if found.differences else 0
