"""Commands that change the history of a library: branch, tag, merge, restore, revert, undelete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

import skillpack
from skillpack.cli.console import counted, moment
from skillpack.cli.history import first_line, short
from skillpack.cli.history_documents import change_document, refs_document
from skillpack.cli.options import (
    dry_run_option,
    history_options,
    output_options,
    store_option,
    store_options,
    yes_option,
)
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.branching import LibraryChange, RefSummary
    from skillpack.cli.console import Output

Kind = Literal["branch", "tag"]


@click.command(short_help="List, make or delete branches.", epilog="Example: skillpack branch try main~2")
@click.argument("name", metavar="[NAME]", required=False)
@click.argument("revision", metavar="[REV]", required=False)
@click.option("-d", "--delete", is_flag=True, help="Delete the branch; skillpack undelete brings it back.")
@store_option
@dry_run_option
@yes_option
@output_options
def branch(
    name: str | None,
    revision: str | None,
    *,
    delete: bool,
    store: str | None,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> None:
    """List branches, make one, or delete one.

    NAME is the branch to make, at the commit REV (see skillpack log), by default main. Commands work on another branch
    with --branch.
    """
    _check("branch", name, revision, delete=delete, dry_run=dry_run)
    if delete and name is not None:
        _delete("branch", name, output, store=store, dry_run=dry_run, yes=yes)
    elif name is not None:
        (found,) = skillpack.branch(name, revision or "main", store=store)
        output.result(
            refs_document("branch", [found]),
            f"branch {name} is at {short(found.digest)}: {first_line(found.message)}",
            f"next: skillpack pack BASE TUNED --branch {name}",
        )
    else:
        _list("branch", skillpack.branch(store=store), output)


@click.command(short_help="List, make, move or delete tags.", epilog="Example: skillpack tag release-1.0 main~2")
@click.argument("name", metavar="[NAME]", required=False)
@click.argument("revision", metavar="[REV]", required=False)
@click.option("-f", "--force", is_flag=True, help="Move the tag if it names another commit.")
@click.option("-d", "--delete", is_flag=True, help="Delete the tag; skillpack undelete brings it back.")
@store_option
@dry_run_option
@yes_option
@output_options
def tag(
    name: str | None,
    revision: str | None,
    *,
    force: bool,
    delete: bool,
    store: str | None,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> None:
    """List tags, make one, move one, or delete one.

    NAME is the tag, REV the commit that it shall name (see skillpack log), by default main. A skill is addressed by a
    tag as math@NAME.
    """
    _check("tag", name, revision, delete=delete, dry_run=dry_run)
    if delete and name is not None:
        _delete("tag", name, output, store=store, dry_run=dry_run, yes=yes)
    elif name is not None:
        (found,) = skillpack.tag(name, revision or "main", force=force, store=store)
        output.result(
            refs_document("tag", [found]),
            f"tag {name} names {short(found.digest)}: {first_line(found.message)}",
            f"next: skillpack install SKILL@{name} MODEL_DIR",
        )
    else:
        _list("tag", skillpack.tag(store=store), output)


@click.command(short_help="Bring the changes of another branch in.", epilog="Example: skillpack merge try")
@click.argument("revision", metavar="REV")
@click.option("--ours", "side", flag_value="ours", help="In every conflict keep what this branch has.")
@click.option("--theirs", "side", flag_value="theirs", help="In every conflict take what the other side has.")
@click.option("--take", "takes", metavar="SKILL=WHOSE", multiple=True, help="Whose: ours, theirs, or REV. Repeatable.")
@history_options
@store_options
@dry_run_option
@output_options
def merge(
    revision: str,
    *,
    side: Literal["ours", "theirs"] | None,
    takes: tuple[str, ...],
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Bring the changes of another branch, or of any commit REV, into a branch.

    Skills that only one side changed since both came apart are taken from it. Where both changed one, nothing is
    written and the skills are named, until it is said whose to take. Skills of several branches become one library;
    to make one skill of several is something else.
    """
    change = skillpack.merge(
        revision,
        side=side,
        take=dict(map(_take, takes)),
        store=store,
        branch=branch,
        message=message,
        author=author,
        dry_run=dry_run,
    )
    _changed(change, output, f"merged {revision} into {branch}")


@click.command(short_help="Bring back an old state.", epilog="Example: skillpack restore main~3 math")
@click.argument("revision", metavar="REV")
@click.argument("skills", metavar="[SKILL...]", nargs=-1)
@history_options
@store_options
@dry_run_option
@output_options
def restore(
    revision: str,
    skills: tuple[str, ...],
    *,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Bring the library, or some skills of it, to the state that they had in a commit.

    REV is the commit (see skillpack log), SKILL a name. This is a new commit: what came after REV stays in the history.
    """
    change = skillpack.restore(
        revision, skills, store=store, branch=branch, message=message, author=author, dry_run=dry_run
    )
    _changed(change, output, f"restored {listing(skills) if skills else branch} to {revision}")


@click.command(short_help="Undo one commit.", epilog="Example: skillpack revert main~1")
@click.argument("revision", metavar="REV")
@history_options
@store_options
@dry_run_option
@output_options
def revert(
    revision: str,
    *,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    output: Output,
) -> None:
    """Undo one commit, as a new commit; all other changes stay.

    REV is the commit (see skillpack log). If later commits changed the same skills, they are named and nothing is
    written.
    """
    change = skillpack.revert(revision, store=store, branch=branch, message=message, author=author, dry_run=dry_run)
    _changed(change, output, f"undid {revision} on {branch}")


@click.command(short_help="Bring back what was deleted.", epilog="Example: skillpack undelete math")
@click.argument("name", metavar="NAME")
@click.option("--kind", type=click.Choice(["skill", "branch", "tag"]), help="What it was, if several had the name.")
@history_options
@store_options
@output_options
def undelete(
    name: str,
    *,
    kind: Literal["skill", "branch", "tag"] | None,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Bring back a deleted skill, branch or tag as it was last.

    NAME is its name. A skill comes from the history of the branch, branches and tags from their logs.
    """
    change = skillpack.undelete(name, kind, store=store, branch=branch, message=message, author=author)
    _changed(change, output, f"{name} is back")


def _check(kind: Kind, name: str | None, revision: str | None, *, delete: bool, dry_run: bool) -> None:
    if delete and (name is None or revision is not None):
        raise UsageError("--delete takes exactly one name", hint="Delete them one by one.")
    if dry_run and not delete and name is not None:
        raise UsageError("--dry-run is for --delete", hint=f"To make a {kind} changes nothing else.")


def _take(text: str) -> tuple[str, str]:
    name, sign, whose = text.partition("=")
    if not (name and sign and whose):
        raise UsageError(f"{text!r} does not say whose skill to take", hint="Write --take math=theirs, for example.")
    return name, whose


def _list(kind: Kind, refs: list[RefSummary], output: Output) -> None:
    if output.as_json:
        output.document(refs_document(kind, refs))
    elif refs:
        output.table(
            {"name": "left", "commit": "left", "skills": "right", "date": "left", "message": "left"},
            [(ref.name, short(ref.digest), str(ref.skills), moment(ref.time), first_line(ref.message)) for ref in refs],
        )
    else:
        output.say(f"there is no {kind} yet")


def _delete(kind: Kind, name: str, output: Output, *, store: str | None, dry_run: bool, yes: bool) -> None:
    delete = skillpack.branch if kind == "branch" else skillpack.tag
    (found,) = delete(name, delete=True, dry_run=True, store=store)
    if not dry_run:
        alone = found.only_here if kind == "branch" else None
        lost = f"{counted(alone, 'commit')} would have no other name. " if alone else ""
        output.confirm(f"{lost}Delete {kind} {name} at {short(found.digest)}?", yes=yes)
        (found,) = delete(name, delete=True, store=store)
    what = f"{kind} {name}, which named {short(found.digest)}"
    output.result(
        refs_document(kind, [found]),
        f"would delete {what}" if dry_run else f"deleted {what}",
        "dry run: nothing was changed" if dry_run else f"skillpack undelete {name} brings it back",
    )


def _changed(change: LibraryChange, output: Output, done: str) -> None:
    output.result(change_document(change), *_summary(change, done))


def _summary(change: LibraryChange, done: str) -> Iterator[str]:
    if change.kind == "up to date":
        yield "nothing had to change"
        return
    at = "" if change.commit is None else f" at {short(change.commit)}"
    yield f"would do: {done}" if change.dry_run else f"{done}{at}"
    for skill in change.changes:
        conflict = change.resolved.get(skill.name)
        yield f"{skill.kind}: {skill.name}" + (f" (conflict: {conflict})" if conflict else "")
    if change.dry_run:
        yield "dry run: nothing was changed"
