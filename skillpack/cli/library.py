"""Commands on the library: list, delete, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, human, moment
from skillpack.cli.documents import (
    delete_document,
    list_document,
    verify_document,
)
from skillpack.cli.options import dry_run_option, history_options, output_options, store_options, yes_option
from skillpack.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skillpack.cli.console import Output
    from skillpack.summaries import SkillSummary


@click.command("list", short_help="List the skills of the library.", epilog="Short form: skillpack ls")
@store_options
@output_options
def list_(*, store: str | None, branch: str, output: Output) -> None:
    """List the skills of the library: the newest version of each, its size, its date (UTC) and its message."""
    skills = skillpack.list(store=store, branch=branch)
    if output.as_json:
        output.document(list_document(skills, branch))
    elif skills:
        output.table(
            {"name": "left", "version": "right", "size": "right", "date": "left", "message": "left"},
            [
                (skill.name, _number(skill), human(skill.size), moment(skill.time), skill.message.partition("\n")[0])
                for skill in skills
            ],
        )
    else:
        output.say(f"branch {branch} has no skill yet", "next: skillpack pack BASE TUNED")


@click.command(short_help="Take a skill out of the library.", epilog="Example: skillpack delete math")
@click.argument("skill", metavar="SKILL")
@history_options
@store_options
@dry_run_option
@yes_option
@output_options
def delete(
    skill: str,
    *,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    dry_run: bool,
    yes: bool,
    output: Output,
) -> None:
    """Take a skill out of the library. Its versions stay in the history, as math@1 and so on.

    SKILL is its name. Models that it is installed on are not touched.
    """
    found = skillpack.delete(skill, store=store, branch=branch, dry_run=True)
    if not dry_run:
        output.confirm(f"Delete {_address(found)} ({human(found.size)}) from branch {branch}?", yes=yes)
        found = skillpack.delete(skill, store=store, branch=branch, message=message, author=author)
    what = f"{_address(found)}, {human(found.size)}, from branch {branch}"
    output.result(
        delete_document(found, dry_run=dry_run),
        f"would delete {what}" if dry_run else f"deleted {what}",
        "dry run: nothing was changed"
        if dry_run
        else f"its versions stay in the history, the last is {_address(found)}",
    )


@click.command(
    short_help="Check every byte of skills, and who signed them.", epilog="Example: skillpack verify math --key ada.pub"
)
@click.argument("skills", metavar="[SKILL...]", nargs=-1)
@click.option("--subset", metavar="I/N", help="Only this part of N of the skills, such as 1/5.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Public key that must have signed; several: any.")
@store_options
@output_options
def verify(
    skills: tuple[str, ...],
    *,
    subset: str | None,
    keys: tuple[str, ...],
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Hash every byte of skills again and check that what they say of themselves fits together.

    SKILL is an address; without any, all skills of the branch are checked. Damage ends the command with exit code 13.

    KEY is the file of a public key or the name of one of your own; each skill must be signed by one of those given.
    Without --key your policy decides. A skill without a signature that counts ends the command with exit code 14.
    """
    with output.trust_warnings(), output.progress() as progress:
        sound = skillpack.verify(skills, keys=keys, store=store, branch=branch, subset=subset, progress=progress)
    signers = {skill.digest: _signers(skill, keys, store) for skill in sound}
    if output.as_json:
        output.document(verify_document(sound, signers))
        return
    output.lines(*(f"ok {_address(skill)} {skill.digest}{_by(signers[skill.digest])}" for skill in sound))
    output.say(f"{counted(len(sound), 'skill')} checked, {human(_total(sound))}")


def _signers(skill: SkillSummary, keys: tuple[str, ...], store: str | None) -> list[str]:
    from skillpack.signing.skills import signers_of

    return signers_of(skill, keys=keys, store=store)


def _by(signers: list[str]) -> str:
    return f" signed by {listing(signers)}" if signers else ""


def _address(skill: SkillSummary) -> str:
    return skill.name if skill.version is None else f"{skill.name}@{skill.version}"


def _number(skill: SkillSummary) -> str:
    return "" if skill.version is None else str(skill.version)


def _total(skills: Iterable[SkillSummary]) -> int:
    return sum(skill.size for skill in skills)
