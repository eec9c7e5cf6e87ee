"""The command `skillpack` itself."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from skillpack.cli import (
    branching,
    comparing,
    composing,
    evaluating,
    exchanging,
    failures,
    folders,
    history,
    learning,
    library,
    packing,
    rebasing,
    remotes,
    reporting,
    routing,
    serving,
    showing,
    signing,
    surgery,
    syncing,
    tinting,
    upkeep,
)
from skillpack.cli.console import help_of_group

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIASES: Final = {"ls": "list"}


class Root(click.Group):
    """The group of all commands: lists them in the order of use, knows one alias, and reports all errors alike."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which they were added."""
        del ctx
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with a name or an alias."""
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001 - as click calls it
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its code; without `standalone_mode`, as click does."""
        given = list(sys.argv[1:] if args is None else args)

        def work() -> object:
            return super(Root, self).main(given, prog_name or "skillpack", complete_var, standalone_mode=False, **extra)

        if not standalone_mode:
            return work()
        before_operands = given[: given.index("--")] if "--" in given else given
        sys.exit(failures.guarded(work, as_json="--json" in before_operands))


@click.group(
    cls=Root,
    name="skillpack",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="A skill is addressed as math, math@3 (its third version), math@TAG or math@sha256:DIGEST.",
)
@click.version_option(package_name="skillpack", message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context) -> None:
    """Turn a fine-tune into a skill: small, versioned, installed on its base model and removed without a trace."""
    help_of_group(context)


for _command in (
    packing.pack,
    folders.install,
    folders.remove,
    folders.status,
    library.list_,
    showing.show,
    evaluating.eval_,
    rebasing.rebase,
    composing.compose,
    surgery.surgery,
    tinting.tint,
    comparing.compare,
    learning.learn,
    learning.learn_stream,
    library.delete,
    exchanging.export,
    exchanging.import_,
    library.verify,
    history.log,
    history.diff,
    history.reflog,
    branching.branch,
    branching.tag,
    branching.merge,
    branching.restore,
    branching.revert,
    branching.undelete,
    syncing.lock,
    syncing.sync,
    upkeep.gc,
    upkeep.fsck,
    upkeep.stats,
    reporting.report,
    remotes.remote,
    remotes.push,
    remotes.pull,
    remotes.fetch,
    remotes.clone,
    remotes.ls_remote,
    routing.route,
    routing.add_examples,
    serving.serve,
    signing.sign,
    signing.signatures,
    signing.key,
    signing.policy,
):
    root.add_command(_command)


def all_commands(group: click.Group = root, prefix: str = "") -> dict[str, click.Command]:
    """Every command by its full name, such as ``key new``, in the order of use; groups themselves are left out."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= all_commands(command, f"{prefix}{name} ")
        else:
            found[f"{prefix}{name}"] = command
    return found


def main() -> None:
    """Entry point of the program."""
    # A name that the terminal's encoding lacks must not end a command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):
            sys.stdout.reconfigure(errors="backslashreplace")
    root()
