"""Commands on keys, signatures and the policy: sign, signatures, key, policy."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import click

import skillpack
from skillpack.cli.console import counted, help_of_group
from skillpack.cli.options import output_options, store_options
from skillpack.cli.trust_documents import (
    key_document,
    keys_document,
    policy_document,
    signatures_document,
    trusted_document,
)
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from skillpack.cli.console import Output
    from skillpack.signing import Policy


@click.command(short_help="Sign skills with a key of yours.", epilog="Example: skillpack sign math --key ada")
@click.argument("skills", metavar="SKILL...", nargs=-1, required=True)
@click.option("--key", required=True, metavar="KEY", help="Name of a key of yours, or the file of a private key.")
@store_options
@output_options
def sign(skills: tuple[str, ...], *, key: str, store: str | None, branch: str, output: Output) -> None:
    """Sign skills: say that these bytes are what you call by this name.

    SKILL is an address. The signature is attached to the skill, whose digest stays the same, and travels with it. It is
    a Sigstore bundle as cosign attaches it, by an Ed25519 key; docs/threat-model.md says what it promises.
    """
    password = _password_of(key)
    made = skillpack.sign(skills, key, password=password, store=store, branch=branch)
    output.result(
        signatures_document(made),
        f"signed {listing(signature.name for signature in made)} with key {made[0].key_id[:16]}",
        f"next: skillpack verify {made[0].name} --key {shlex.quote(key)}",
    )


@click.command(short_help="List the signatures of a skill.", epilog="Example: skillpack signatures math")
@click.argument("skill", metavar="SKILL")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Public key that counts, in place of the policy's.")
@store_options
@output_options
def signatures(skill: str, *, keys: tuple[str, ...], store: str | None, branch: str, output: Output) -> None:
    """List the signatures of a skill, and whether they count: by your policy, or by the keys that are given.

    SKILL is an address. Everybody who can write to the store can attach signatures, so one that does not count is no
    reason for worry. skillpack verify says whether there is one that does.
    """
    found = skillpack.signatures(skill, keys=keys, store=store, branch=branch)
    if output.as_json:
        output.document(signatures_document(found))
    elif found:
        rows = [(one.key_id[:16], one.signer, one.name, one.problem or "holds") for one in found]
        output.table({"key": "left", "signer": "left", "skill": "left", "state": "left"}, rows)
    else:
        output.say(f"{skill} has no signature", f"next: skillpack sign {skill} --key KEY")


@click.group(invoke_without_command=True, short_help="Make and show your own keys.")
@click.pass_context
def key(context: click.Context) -> None:
    """Make and show your own keys, with which you sign skills."""
    help_of_group(context)


@key.command("new", short_help="Make a key.", epilog="Example: skillpack key new ada")
@click.argument("name", metavar="NAME")
@click.option("--no-password", is_flag=True, help="Keep the private half without a password, and do not ask for one.")
@output_options
def key_new(name: str, *, no_password: bool, output: Output) -> None:
    """Make a key called NAME.

    The private half is kept in your folder of keys, for your eyes only, under a password if you give one; the public
    half beside it is for everybody who wants to check your signatures. A lost private half cannot be brought back.
    """
    made = skillpack.new_key(name, password=None if no_password else _new_password())
    output.result(
        key_document(made),
        f"made key {made.name}, {made.key_id[:16]}{', under a password' if made.encrypted else ''}",
        f"give others {made.path}",
        f"next: skillpack sign SKILL --key {made.name}",
    )


@key.command("list", short_help="List your keys.", epilog="Example: skillpack key list")
@output_options
def key_list(*, output: Output) -> None:
    """List your own keys."""
    found = skillpack.list_keys()
    if output.as_json:
        output.document(keys_document(found))
    elif found:
        rows = [(one.name, one.key_id, "yes" if one.encrypted else "no", str(one.path)) for one in found]
        output.table({"name": "left", "key id": "left", "password": "left", "public half": "left"}, rows)
    else:
        output.say("you have no key yet", "next: skillpack key new NAME")


@key.command("show", short_help="Print the public half of a key.", epilog="Example: skillpack key show ada > ada.pub")
@click.argument("name", metavar="NAME")
@output_options
def key_show(name: str, *, output: Output) -> None:
    """Print the public half of your key NAME, PEM, on stdout."""
    found = skillpack.show_key(name)
    if output.as_json:
        output.document(key_document(found))
    else:
        output.lines(found.public.rstrip("\n"))
        output.say(f"key id {found.key_id}")


@click.group(invoke_without_command=True, short_help="Say whose skills are accepted.")
@click.pass_context
def policy(context: click.Context) -> None:
    """Say whose skills are accepted: by install, sync, import and verify.

    With mode `off` nobody looks at signatures, with `warn` a skill that nobody whom you trust has signed is taken with
    a warning, with `require` it is refused with exit code 14. No option of another command changes that.
    """
    help_of_group(context)


@policy.command("show", short_help="Show whose skills are accepted.", epilog="Example: skillpack policy show")
@output_options
def policy_show(*, output: Output) -> None:
    """Show the mode and the keys of your policy."""
    _print_policy(skillpack.show_policy(), output)


@policy.command("set", short_help="Choose how strict the policy is.", epilog="Example: skillpack policy set require")
@click.argument("mode", metavar="off|warn|require", type=click.Choice(["off", "warn", "require"]))
@output_options
def policy_set(mode: str, *, output: Output) -> None:
    """Choose what happens to skills that nobody whom you trust has signed."""
    found = skillpack.set_policy(mode)
    if output.as_json:
        output.document(policy_document(found))
        return
    output.say(f"the mode of your policy is {found.mode}")
    if not found.keys and found.mode != "off":
        output.say("it trusts nobody yet", "next: skillpack policy trust KEY --name WHO")


@policy.command(
    "trust",
    short_help="Accept what a key has signed.",
    epilog="Example: skillpack policy trust ada.pub --name Ada --skills 'math-*'",
)
@click.argument("key_file", metavar="KEY")
@click.option("--name", required=True, metavar="WHO", help="Whose key it is.")
@click.option("--skills", "patterns", multiple=True, metavar="PATTERN", help="Skills it may sign, with * and ?; all.")
@click.option("--expires", metavar="DATE", help="Day from which on it counts no longer, such as 2027-01-31; never.")
@output_options
def policy_trust(key_file: str, *, name: str, patterns: tuple[str, ...], expires: str | None, output: Output) -> None:
    """Accept what a key has signed.

    KEY is the file of a public key, or the name of one of your own. Compare its key id with what its owner says.
    """
    trusted = skillpack.trust(key_file, name, skills=patterns or ("*",), expires=expires)
    lines = [f"{trusted.name} may sign {listing(trusted.skills)}; key id {trusted.key.id}"]
    if skillpack.show_policy().mode == "off":
        lines.append("next: skillpack policy set require, because the mode is off and nobody looks at signatures")
    output.result(trusted_document(trusted), *lines)


@policy.command(
    "untrust", short_help="Accept no longer what a key has signed.", epilog="Example: skillpack policy untrust Ada"
)
@click.argument("name", metavar="WHO")
@click.option("--revoke", is_flag=True, help="Keep it as revoked: it was stolen, and must not be trusted again.")
@output_options
def policy_untrust(name: str, *, revoke: bool, output: Output) -> None:
    """Accept no longer what the key of WHO has signed.

    WHO is a name in your policy, or the start of a key id.
    """
    changed = skillpack.untrust(name, revoke=revoke)
    what = "revoked the key of" if revoke else "no longer trusted:"
    output.result(trusted_document(changed), f"{what} {changed.name}, {changed.key.id[:16]}")


def _print_policy(found: Policy, output: Output) -> None:
    if output.as_json:
        output.document(policy_document(found))
        return
    output.lines(f"mode: {found.mode}")
    if found.keys:
        rows = [
            (one.name, one.key.id, listing(one.skills), "revoked" if one.revoked else one.expires or "never")
            for one in found.keys
        ]
        output.table({"name": "left", "key id": "left", "skills": "left", "expires": "left"}, rows)
    output.say(f"{counted(len(found.keys), 'key')} trusted" if found.keys else "nobody is trusted yet")


def _new_password() -> str | None:
    from skillpack.settings import PASSWORD_VARIABLE, key_password

    password = key_password()
    if password is not None:
        return password
    if not _is_terminal():
        raise UsageError(
            "There is no terminal to ask for a password on", hint=f"Set {PASSWORD_VARIABLE}, or add --no-password."
        )
    text: str = click.prompt(
        "Password for the key (empty for none)", default="", hide_input=True, confirmation_prompt=True,
        show_default=False, err=True,
    )  # fmt: skip
    return text


def _password_of(key: str) -> str | None:
    from skillpack.settings import PASSWORD_VARIABLE, key_password
    from skillpack.signing.keys import is_encrypted, private_key_file

    path = private_key_file(key)
    if not is_encrypted(path):
        return None
    password = key_password()
    if password is None:
        if not _is_terminal():
            raise UsageError(f"The key {key} needs a password", hint=f"Set {PASSWORD_VARIABLE}.")
        password = click.prompt(f"Password of {key}", hide_input=True, err=True)
    return password


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
