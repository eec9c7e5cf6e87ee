"""Commands on libraries elsewhere: remote, push, pull, fetch, clone, ls-remote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import skillpack
from skillpack.cli.console import counted, help_of_group, human
from skillpack.cli.history import short
from skillpack.cli.options import dry_run_option, history_options, output_options, store_option, store_options
from skillpack.cli.remote_documents import refs_document, remote_document, remotes_document, transfer_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from skillpack.cli.console import Output
    from skillpack.remotes import RefChange, TransferReport

_insecure_option = click.option("--insecure", is_flag=True, help="Allow plain HTTP.")
_tags_option = click.option("--tags", is_flag=True, help="All tags too.")
_all_option = click.option("--all", "all_branches", is_flag=True, help="All branches instead of one.")
_remote_argument = click.argument("remote", metavar="[REMOTE]", default="origin")


@click.group(invoke_without_command=True, short_help="Name the places that libraries are pushed to and pulled from.")
@click.pass_context
def remote(context: click.Context) -> None:
    """Name the places that libraries are pushed to and pulled from."""
    help_of_group(context)


@remote.command(
    "add", short_help="Give a remote a name.", epilog="Example: skillpack remote add origin s3://bucket/skills"
)
@click.argument("name", metavar="NAME")
@click.argument("url", metavar="URL")
@_insecure_option
@store_option
@output_options
def remote_add(name: str, url: str, *, insecure: bool, store: str | None, output: Output) -> None:
    """Give a remote a name. The remote called origin is used by push, pull and fetch when none is named.

    URL is a folder, a file FILE.tar, s3://, gs://, az://, https://, oci:// or hf://. Credentials stay where the
    provider's own tools look for them, mostly in the environment.
    """
    added = skillpack.add_remote(name, url, insecure=insecure, store=store)
    output.result(
        remote_document(added), f"added {added.name}, {added.url}", f"next: skillpack push {name} or pull {name}"
    )


@remote.command("list", short_help="List the remotes.", epilog="Example: skillpack remote list")
@store_option
@output_options
def remote_list(*, store: str | None, output: Output) -> None:
    """List the remotes that the store knows."""
    remotes = skillpack.list_remotes(store=store)
    if output.as_json:
        output.document(remotes_document(remotes))
    elif remotes:
        output.table({"name": "left", "url": "left"}, [(found.name, found.url) for found in remotes])
    else:
        output.say("there is no remote yet", "next: skillpack remote add origin URL")


@remote.command("remove", short_help="Forget a remote.", epilog="Example: skillpack remote remove origin")
@click.argument("name", metavar="NAME")
@store_option
@output_options
def remote_remove(name: str, *, store: str | None, output: Output) -> None:
    """Forget a remote. Nothing changes at the remote, and what was fetched stays until it is collected."""
    removed = skillpack.remove_remote(name, store=store)
    output.result(remote_document(removed), f"removed {removed.name}, {removed.url}")


@remote.command(
    "set-url",
    short_help="Give a remote another address.",
    epilog="Example: skillpack remote set-url origin https://example.org/skills",
)
@click.argument("name", metavar="NAME")
@click.argument("url", metavar="URL")
@_insecure_option
@store_option
@output_options
def remote_set_url(name: str, url: str, *, insecure: bool, store: str | None, output: Output) -> None:
    """Give a remote another address. URL is as for skillpack remote add."""
    changed = skillpack.set_remote_url(name, url, insecure=insecure, store=store)
    output.result(remote_document(changed), f"{changed.name} is {changed.url} now")


def _transfer_options(function: Callable[..., Any]) -> Callable[..., Any]:
    force = click.option("--force", is_flag=True, help="Also move branches and tags back or sideways.")
    return _tags_option(force(_insecure_option(dry_run_option(output_options(function)))))


@click.command(short_help="Bring your library to a remote.", epilog="Example: skillpack push origin --tags")
@_remote_argument
@_all_option
@store_options
@_transfer_options
def push(*, remote: str, output: Output, **options: Any) -> None:
    """Bring your library to a remote: a branch with its history, its skills and what is attached to them.

    REMOTE is the name of a remote (default: origin) or an address. Only what the remote lacks is sent. A branch of
    the remote is moved forward only; if it has commits that yours lacks, pull first.
    """
    with output.progress() as progress:
        report = skillpack.push(remote, progress=progress, **options)
    _tell(report, output, "sent", "would send", f"{report.url} is up to date")


@click.command(short_help="Bring a remote's library here.", epilog="Example: skillpack pull origin math")
@_remote_argument
@click.argument("skills", metavar="[SKILL...]", nargs=-1)
@_all_option
@history_options
@store_options
@_transfer_options
def pull(*, remote: str, skills: tuple[str, ...], output: Output, **options: Any) -> None:
    """Bring a remote's library here, every byte checked against its digest, and move your branch forward to it.

    REMOTE is the name of a remote (default: origin) or an address. With names of skills only these come, without
    the history, in a commit of your own. An interrupted pull goes on where it was.
    """
    with output.trust_warnings(), output.progress() as progress:
        report = skillpack.pull(remote, skills, progress=progress, **options)
    _tell(report, output, "received", "would receive", "already up to date")


@click.command(short_help="Bring what a remote has, leave your branches alone.", epilog="Example: skillpack fetch")
@_remote_argument
@click.option("--branch", metavar="NAME", help="Only this branch of the remote; by default all.")
@store_option
@_transfer_options
def fetch(*, remote: str, output: Output, **options: Any) -> None:
    """Bring what a remote has into the store and note what its branches name; your own branches stay as they are.

    REMOTE is the name of a remote (default: origin) or an address.
    """
    with output.progress() as progress:
        report = skillpack.fetch(remote, progress=progress, **options)
    _tell(report, output, "received", "would receive", "already up to date")


@click.command(short_help="Make a store from a remote.", epilog="Example: skillpack clone https://example.org/skills")
@click.argument("url", metavar="URL")
@click.argument("folder", metavar="[FOLDER]", required=False)
@click.option("--branch", default="main", metavar="NAME", help="Branch to begin with.", show_default=True)
@_insecure_option
@output_options
def clone(url: str, folder: str | None, *, branch: str, insecure: bool, output: Output) -> None:
    """Make a store with everything that a remote has. The remote is called origin in it.

    FOLDER is the new store; by default it is your own. An interrupted clone is completed by the same command.
    """
    with output.progress() as progress:
        report = skillpack.clone(url, folder, branch=branch, insecure=insecure, progress=progress)
    _tell(report, output, "received", "", "")


@click.command("ls-remote", short_help="List what a remote has.", epilog="Example: skillpack ls-remote oci://host/x")
@_remote_argument
@_insecure_option
@store_option
@output_options
def ls_remote(*, remote: str, insecure: bool, store: str | None, output: Output) -> None:
    """List the branches, tags and lists of attachments of a remote, with the digests that they name.

    REMOTE is the name of a remote (default: origin) or an address.
    """
    refs = skillpack.ls_remote(remote, insecure=insecure, store=store)
    if output.as_json:
        output.document(refs_document(refs))
    elif refs:
        output.lines(*(f"{digest}  {ref}" for ref, digest in refs.items()))
    else:
        output.say("there is nothing yet")


def _tell(report: TransferReport, output: Output, done: str, planned: str, nothing: str) -> None:
    lines = [_line(change) for change in report.changes]
    lines += [f"kept {change.ref}, which names {_named(change.old)} here" for change in report.kept]
    amount = f"{counted(report.blobs, 'blob')}, {human(report.nbytes)}"
    if report.changes or report.blobs or report.attachments:
        lines.append(f"{planned if report.dry_run else done} {amount}")
    else:
        lines.append(nothing)
    if report.dry_run:
        lines.append("dry run: nothing was changed")
    output.result(transfer_document(report), *lines)


def _line(change: RefChange) -> str:
    name = change.ref.removeprefix("heads/").removeprefix("remotes/")
    forced = " (forced)" if change.forced else ""
    return f"{name}: {_named(change.old)} -> {_named(change.new)}{forced}"


def _named(digest: str | None) -> str:
    return "new" if digest is None else short(digest)
