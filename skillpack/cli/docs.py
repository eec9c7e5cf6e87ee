"""Writes `docs/cli.md` from the commands themselves: ``python -m skillpack.cli.docs > docs/cli.md``."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

import click

from skillpack.cli.documents import KEYS
from skillpack.cli.failures import DEBUG_VARIABLE, EXIT_CODES
from skillpack.cli.root import ALIASES, all_commands, root
from skillpack.settings import API_KEY_VARIABLE, HOME_VARIABLE, PASSWORD_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TWINS: Final = {
    "import": "import_skill",
    "eval": "evaluate",
    "remote add": "add_remote",
    "remote list": "list_remotes",
    "remote remove": "remove_remote",
    "remote set-url": "set_remote_url",
    "ls-remote": "ls_remote",
    "surgery": "learn_surgery",
    "tint": "learn_tints",
    "learn-stream": "learn_stream",
    "add-examples": "add_examples",
    "key new": "new_key",
    "key list": "list_keys",
    "key show": "show_key",
    "policy show": "show_policy",
    "policy set": "set_policy",
    "policy trust": "trust",
    "policy untrust": "untrust",
}
"""Commands whose Python twin has another name."""

_VARIABLES: Final = {
    HOME_VARIABLE: "folder of your own store, keys and policy; by default where the system keeps a user's data and "
    "configuration",
    PASSWORD_VARIABLE: "password of a private key, so that nobody is asked for it",
    API_KEY_VARIABLE: "key that clients of `serve` must send",
    DEBUG_VARIABLE: "`1` prints the traceback of an error in SkillPack itself",
    "NO_COLOR": "no colours (no-color.org)",
    "HF_HOME, HF_HUB_OFFLINE": "respected when BASE, TUNED, MODEL_DIR or DATA is of the Hub",
    "HF_TOKEN, HF_ENDPOINT": "who asks, and which Hub, for `hf://` (docs/remotes.md)",
    "DOCKER_CONFIG, REGISTRY_AUTH_FILE": "where docker and podman keep credentials, for `oci://` (docs/remotes.md)",
    "AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME": "and what else the providers' own "
    "tools take, for `s3://`, `gs://` and `az://` (docs/store.md)",
    "TMPDIR": "where a pack puts its temporary file, and an evaluation its copy of the base",
}

_INTRODUCTION: Final = """\
# The command line

<!-- Written by `python -m skillpack.cli.docs > docs/cli.md`; a test fails if it is out of date. -->

Data goes to stdout; talk, questions and progress go to stderr. Every command takes `-h`, `--json` (one JSON object on
stdout, whose keys are listed below and only ever added to) and `-q` (no talk, no progress). A progress bar appears only
on a terminal and only for work of more than two seconds. Sizes are decimal: 5 MB are 5,000,000 bytes.

An error is a line `error: …` and mostly a line `hint: …` with the next step on stderr. With `--json` it is also an
object on stdout: `{"error": …, "hint": …, "exit_code": …}`.
"""

_COMPLETION: Final = """\
## Shell completion

Commands, options and paths are completed in bash, zsh and fish. For bash, put this into `~/.bashrc`; for the others
say `zsh_source` in `~/.zshrc`, or `fish_source | source` in fish's configuration:

```bash
eval "$(_SKILLPACK_COMPLETE=bash_source skillpack)"
```
"""


def render() -> str:
    """The whole page, Markdown."""
    context = click.Context(root, info_name="skillpack")
    sections = [_INTRODUCTION, _exit_codes(), _variables(), _COMPLETION]
    sections += [_section(name, command, context) for name, command in all_commands().items()]
    return "\n".join(sections)


def _exit_codes() -> str:
    rows = [(str(code), meaning) for code, meaning in EXIT_CODES.items()]
    return "\n".join(["## Exit codes", "", *_table(("code", "meaning"), rows), ""])


def _variables() -> str:
    rows = [(f"`{name.replace(', ', '`, `')}`", meaning) for name, meaning in _VARIABLES.items()]
    return "\n".join(["## Environment", "", *_table(("variable", "meaning"), rows), ""])


def _section(name: str, command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, info_name=name, parent=parent)
    pieces = " ".join(command.collect_usage_pieces(context))
    aliases = [f"`{alias}`" for alias, target in ALIASES.items() if target == name]
    options = [
        record
        for param in command.params
        if isinstance(param, click.Option) and (record := param.get_help_record(context)) is not None
    ]
    lines = [f"## skillpack {name}", "", "```", f"skillpack {name} {pieces}", "```", ""]
    lines += [inspect.cleandoc(command.help or ""), ""]
    if command.epilog and command.epilog.startswith("Example: "):
        lines += ["```bash", command.epilog.removeprefix("Example: "), "```", ""]
    if aliases:
        lines += [f"Short form: {', '.join(aliases)}.", ""]
    lines += [f"In Python: `skillpack.{TWINS.get(name, name)}`.", ""]
    lines += [*_table(("option", "meaning"), ((f"`{names}`", " ".join(text.split())) for names, text in options)), ""]
    lines += [*_table(("JSON key", "meaning"), ((f"`{key}`", text) for key, text in KEYS[name].items())), ""]
    return "\n".join(lines)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---|---|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    click.echo(render(), nl=False)
