"""Commands that look at the history of a library: log, reflog, diff."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human, moment
from skillpack.cli.history_documents import diff_document, log_document, reflog_document
from skillpack.cli.options import output_options, store_option, store_options
from skillpack.errors import listing

if TYPE_CHECKING:
    from collections.abc import Callable

    from skillpack.cli.console import Output
    from skillpack.differences import LibraryDiff, SkillDifference, SkillSide
    from skillpack.history import LogEntry


@click.command(short_help="Show the history of the library.", epilog="Example: skillpack log math -n 20")
@click.argument("skill", metavar="[SKILL]", required=False)
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="Show no more than so many commits.")
@click.option("--graph", is_flag=True, help="Draw how the commits follow one another.")
@click.option("--rev", "revision", metavar="REV", help="Start at this commit instead of the newest of the branch.")
@store_options
@output_options
def log(
    skill: str | None,
    *,
    limit: int | None,
    graph: bool,
    revision: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Show the history of the library, or of one skill: newest commits first, over all parents.

    SKILL is a name; then only commits that changed it are shown, with its version and size. A merge that took it from
    one side is left out, for the commits of that side are there.

    REV names a commit: a branch, a tag, origin/main (a branch of a remote, as it was when it was looked at last),
    main~2 (two commits before), main@{1} (before the last change of the branch), or sha256: with the first digits of
    its digest.
    """
    entries = skillpack.log(skill, revision=revision, limit=limit, store=store, branch=branch)
    if output.as_json:
        output.document(log_document(entries))
        return
    rows = [_row(entry, of_skill=skill is not None) for entry in entries]
    columns = ["commit", "version", "size"] if skill is not None else ["commit"]
    headings = {**dict.fromkeys(columns, "left"), "date": "left", "author": "left", "message": "left"}
    if graph and skill is None:
        from skillpack.cli.lanes import draw

        drawn = draw([(entry.digest, entry.parents) for entry in entries])
        rows = [(row.drawn, *([""] * len(headings) if row.commit is None else rows[row.commit])) for row in drawn]
        headings = {"": "left", **headings}
    output.table(headings, rows)  # type: ignore[arg-type]


@click.command(short_help="Show what a branch or tag named.", epilog="Example: skillpack reflog main -n 10")
@click.argument("ref", metavar="[REF]", default="main")
@click.option("-n", "limit", type=click.IntRange(min=1), metavar="N", help="Show no more than so many entries.")
@store_option
@output_options
def reflog(ref: str, *, limit: int | None, store: str | None, output: Output) -> None:
    """Show what a branch or tag named, newest first, also if it was deleted.

    REF is a branch (by default main), a tag, or origin/main for a branch of a remote. The first column names the commit
    for other commands.
    """
    entries = skillpack.reflog(ref, limit=limit, store=store)
    if output.as_json:
        output.document(reflog_document(entries))
        return
    output.table(
        {"revision": "left", "commit": "left", "date": "left", "message": "left"},
        [
            (
                entry.revision,
                "deleted" if entry.digest is None else short(entry.digest),
                moment(entry.time),
                first_line(entry.message),
            )
            for entry in entries
        ],
    )


@click.command(short_help="Compare two states of the library.", epilog="Example: skillpack diff main~3 main --tensors")
@click.argument("older", metavar="REV")
@click.argument("newer", metavar="[REV]", required=False)
@click.option("--skill", "skills", metavar="NAME", multiple=True, help="Look at this skill only; may be repeated.")
@click.option("--tensors", is_flag=True, help="Compare the deltas of changed skills tensor by tensor.")
@click.option("--base", metavar="BASE", help="With --tensors: the base, needed where skills come back bit for bit.")
@store_options
@output_options
def diff(
    older: str,
    newer: str | None,
    *,
    skills: tuple[str, ...],
    tensors: bool,
    base: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Compare two states of the library: skills added, removed and changed.

    REV names a commit (see skillpack log); the second is by default the newest of the branch.

    With --tensors, moved is how far the delta of a tensor went: the Frobenius norm of the difference of the two deltas,
    relative to the older one. Overlap is the cosine of the two: 1 for the same direction, 0 for nothing in common.
    """
    with output.progress() as progress:
        found = skillpack.diff(
            older, newer, skills=skills, tensors=tensors, base=base, store=store, branch=branch, progress=progress
        )
    if output.as_json:
        output.document(diff_document(found))
        return
    if not found.skills:
        output.say("no skill is different")
        return
    _print_skills(found, output, moved=tensors)
    if tensors:
        for skill in found.skills:
            _print_tensors(skill, output)


def short(digest: str) -> str:
    """A digest that people can read and commands still take."""
    return digest[: len("sha256:") + 12]


def first_line(message: str) -> str:
    """What a table shows of a message."""
    return message.partition("\n")[0]


def _row(entry: LogEntry, *, of_skill: bool) -> tuple[str, ...]:
    size = "" if entry.size is None else human(entry.size)
    version = "removed" if entry.size is None else "" if entry.version is None else str(entry.version)
    refs = f"({', '.join(entry.refs)}) " if entry.refs else ""
    return (
        short(entry.digest),
        *((version, size) if of_skill else ()),
        moment(entry.time),
        entry.author,
        refs + first_line(entry.message),
    )


def _print_skills(found: LibraryDiff, output: Output, *, moved: bool) -> None:
    columns = ["", "skill", "version", "size", *(["moved", "overlap"] if moved else [])]
    signs = {"added": "+", "removed": "-", "changed": "~"}
    output.table(
        {column: "right" if column in {"moved", "overlap"} else "left" for column in columns},
        [
            (
                signs[skill.kind],
                skill.name,
                _both(skill, lambda side: "-" if side.version is None else str(side.version)),
                _both(skill, lambda side: human(side.size)),
                *((_figure(skill.moved), _figure(skill.overlap)) if moved else ()),
            )
            for skill in found.skills
        ],
    )
    kinds = [skill.kind for skill in found.skills]
    counts = [f"{counted(kinds.count(kind), 'skill')} {kind}" for kind in signs if kind in kinds]
    output.say(listing(counts))


def _print_tensors(skill: SkillDifference, output: Output) -> None:
    if not skill.tensors:
        return
    output.lines("", f"{skill.name}:")
    output.table(
        {"tensor": "left", "bytes": "left", "codec": "left", "moved": "right", "overlap": "right", "": "left"},
        [
            (
                item.tensor,
                _arrow(*("-" if size is None else human(size) for size in (item.bytes_before, item.bytes_after))),
                _arrow("+".join(item.codecs_before) or "-", "+".join(item.codecs_after) or "-"),
                _figure(item.moved),
                _figure(item.overlap),
                item.reason,
            )
            for item in skill.tensors
        ],
    )


def _both(skill: SkillDifference, text: Callable[[SkillSide], str]) -> str:
    return _arrow(*(text(side) for side in (skill.before, skill.after) if side is not None))


def _arrow(*texts: str) -> str:
    return " -> ".join(dict.fromkeys(texts))


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"
