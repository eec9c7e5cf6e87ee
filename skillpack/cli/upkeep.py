"""Commands of the upkeep of a store: gc, fsck, stats."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.options import dry_run_option, output_options, store_option, yes_option
from skillpack.cli.upkeep_documents import fsck_document, gc_document, stats_document
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack_store.collecting import Collected, Tally
    from skillpack_store.findings import Finding
    from skillpack_store.fsck import Checked

_CORRUPT: Final = 13
_TIME: Final = re.compile(r"([0-9]{1,6})\s*([smhdw]?)")
_UNITS: Final = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN: Final = 5


def parse_time(text: str) -> timedelta:
    """Read a length of time: 14d, 12h, 30m, 90s, 2w.

    >>> parse_time("14d"), parse_time("0")
    (datetime.timedelta(days=14), datetime.timedelta(0))

    Raises:
        BadParameter: it is none.
    """
    found = _TIME.fullmatch(text.strip().lower())
    if found is None or (not found[2] and int(found[1])):
        raise click.BadParameter(f"{text!r} is no length of time; write 14d, 12h, 30m or 90s")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def _as_time(context: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    del context, parameter
    return parse_time(value)


@click.command(short_help="Free the space of what nothing names.", epilog="Example: skillpack gc --dry-run")
@click.option(
    "--grace",
    callback=_as_time,
    default="14d",
    metavar="TIME",
    show_default=True,
    help="How long something is kept after it was last written or used again.",
)
@click.option(
    "--trash-grace",
    callback=_as_time,
    default="7d",
    metavar="TIME",
    show_default=True,
    help="How long the trash keeps it after that.",
)
@click.option(
    "--expire",
    callback=_as_time,
    default="90d",
    metavar="TIME",
    show_default=True,
    help="How long the logs of branches and tags keep old values.",
)
@click.option("--now", is_flag=True, help="Empty the trash, whatever --trash-grace says.")
@click.option("--undo", is_flag=True, help="Put everything in the trash back.")
@store_option
@dry_run_option
@yes_option
@output_options
def gc(
    *,
    grace: timedelta,
    trash_grace: timedelta,
    expire: timedelta,
    now: bool,
    undo: bool,
    store: str | None,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> None:
    """Free the space of what no branch, no tag and no log of theirs names any more.

    It goes to the trash first, from where --undo brings it back, and is deleted by a later gc. Commands that run at the
    same time lose nothing. Models on which skills are installed need nothing of the store.
    """
    if undo and (now or dry_run):
        raise UsageError("--undo goes with neither --now nor --dry-run")
    if now and not dry_run:
        output.confirm("Delete everything in the trash for good?", yes=yes)
    report = skillpack.gc(
        store=store,
        grace=grace,
        trash_grace=timedelta(0) if now else trash_grace,
        expire=expire,
        dry_run=dry_run,
        undo=undo,
    )
    output.result(gc_document(report), *_undone(report) if undo else _collected(report))


def _undone(report: Collected) -> Iterator[str]:
    yield f"{_amount(report.restored)} came back from the trash"


def _collected(report: Collected) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"in use: {_amount(report.used)}"
    if report.recent.number:
        yield f"kept because recent: {_amount(report.recent)}"
    if report.writing:
        yield "somebody writes now: what was written since they began is kept"
    yield f"{would}moved to the trash: {_amount(report.trashed)}"
    yield f"{would}deleted from the trash: {_amount(report.deleted)}"
    if report.restored.number:
        yield f"{would}put back, because in use again: {_amount(report.restored)}"
    if report.temporary.number:
        yield f"{would}removed, left by interrupted commands: {counted(report.temporary.number, 'file')}"
    if report.pruned:
        entries = "1 entry" if report.pruned == 1 else f"{report.pruned} entries"
        yield f"{would}forgotten: {entries} of logs"
    if report.dry_run:
        yield "dry run: nothing was changed"
    elif report.in_trash.number:
        yield f"in the trash: {_amount(report.in_trash)}; skillpack gc --undo brings it back"


@click.command(short_help="Check the whole store.", epilog="Example: skillpack fsck --full")
@click.option("--quick", is_flag=True, help="Check the structure only: documents, and that what they name is there.")
@click.option("--full", is_flag=True, help="Hash every byte.")
@click.option("--subset", metavar="I/N", help="With --full: hash only this part of N, such as 1/5.")
@click.option("--quarantine", is_flag=True, help="Move damaged blobs to the folder quarantine.")
@store_option
@output_options
def fsck(*, quick: bool, full: bool, subset: str | None, quarantine: bool, store: str | None, output: Output) -> int:
    """Look for everything that can be wrong with the store. Nothing is deleted.

    Each finding has a kind, such as blob-damaged, and names what it affects; docs/troubleshooting.md says what to do
    about each. Errors end the command with exit code 13, notes do not.

    A blob in quarantine is missing instead of wrong: to store, import or pull the same content again fills its place.
    """
    if quick and full:
        raise UsageError("--quick and --full exclude each other")
    level: Literal["quick", "sizes", "full"] = "full" if full else "quick" if quick else "sizes"
    with output.progress() as progress:
        report = skillpack.fsck(store=store, level=level, subset=subset, quarantine=quarantine, progress=progress)
    if output.as_json:
        output.document(fsck_document(report))
    else:
        for finding in report.findings:
            output.lines(*_shown(finding))
        output.say(*_verdict(report))
    return _CORRUPT if report.errors else 0


def _shown(finding: Finding) -> Iterator[str]:
    kind = "" if finding.problem.is_error else "note: "
    yield f"{kind}{finding.problem.value} {finding.path}: {finding.detail}"
    affected = finding.affected
    if affected.skills:
        yield f"  skills: {listing(_short(name) for name in affected.skills)}"
    if affected.attachments:
        yield f"  attachments: {listing(affected.attachments)}"
    if affected.commit_count:
        more = affected.commit_count - len(affected.commits[:_SHOWN])
        rest = f" and {more} more" if more else ""
        yield f"  commits: {', '.join(digest[:19] for digest in affected.commits[:_SHOWN])}{rest}"
    if affected.refs:
        yield f"  refs: {listing(affected.refs)}"
    if finding.quarantined:
        yield f"  moved to: {finding.quarantined}"


def _verdict(report: Checked) -> Iterator[str]:
    sizes = f"{counted(report.blobs, 'blob')}, {human(report.bytes)}"
    checked = f"{counted(report.commits, 'commit')}, {counted(report.skills, 'skill')}, {sizes} checked"
    hashed = f", {human(report.hashed)} hashed" if report.level == "full" else ""
    notes = f", {counted(len(report.notes), 'note')}" if report.notes else ""
    yield f"{checked}{hashed}: {counted(len(report.errors), 'error') if report.errors else 'no errors'}{notes}"
    if report.errors:
        yield "next: docs/troubleshooting.md says what each finding means and what to do"


@click.command(short_help="Show where the bytes of the store are.", epilog="Example: skillpack stats")
@store_option
@output_options
def stats(*, store: str | None, output: Output) -> None:
    """Show where the bytes of the store are: by skill, all its versions together.

    What skills share is counted once, in a line of its own; "own" is what would be freed without the skill.
    """
    sizes = skillpack.stats(store=store)
    if output.as_json:
        output.document(stats_document(sizes))
        return
    rows = [(skill.name, str(skill.versions), human(skill.bytes), human(skill.own)) for skill in sizes.skills]
    others = {
        "(shared by skills)": sizes.shared,
        "(history, attachments)": sizes.history,
        "(named by nothing)": sizes.unreferenced,
        "(trash)": sizes.trash,
        "(quarantine)": sizes.quarantine,
    }
    rows += [(name, "", "", human(tally.bytes)) for name, tally in others.items() if tally.number]
    rows.append(("total", "", "", human(sizes.total)))
    output.table({"skill": "left", "versions": "right", "size": "right", "own": "right"}, rows)


def _amount(tally: Tally) -> str:
    return f"{counted(tally.number, 'blob')}, {human(tally.bytes)}"


def _short(name: str) -> str:
    skill, _, digest = name.partition("@")
    return f"{skill}@{digest[:19]}"
