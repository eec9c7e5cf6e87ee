"""Commands on routing: route, add-examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import click

import skillpack
from skillpack.cli.console import counted
from skillpack.cli.options import output_options, store_options
from skillpack.cli.routing_documents import examples_document, route_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.cli.console import Output
    from skillpack.routing.protocol import Route

_REASONS: Final = 5
"""Skills of which it is said why they were left out; most often one reason is that of all."""


def parse_threshold(text: str) -> float | Literal["auto"]:
    """Read a threshold.

    >>> parse_threshold("0.4"), parse_threshold("auto")
    (0.4, 'auto')

    Raises:
        BadParameter: it is none.
    """
    try:
        return "auto" if text == "auto" else float(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no threshold; write a number, or auto") from None


@click.command(
    short_help="Say which skills serve a prompt.",
    epilog='Example: skillpack route "What is 12 times 12?" --base org/base',
)
@click.argument("prompts", metavar="PROMPT...", nargs=-1, required=True)
@click.option("--base", type=click.Path(), metavar="BASE", required=True, help="The model the skills were packed from.")
@click.option("--skills", metavar="SKILLS", help="Addresses to choose from, with commas; by default the whole library.")
@click.option(
    "--method",
    default="prototype",
    metavar="METHOD",
    help="prototype, arrow, likelihood, linear or self-refined.",
    show_default=True,
)
@click.option("--top-k", type=click.IntRange(1), default=1, metavar="K", help="Most skills.", show_default=True)
@click.option(
    "--threshold",
    type=parse_threshold,
    default="auto",
    metavar="X",
    help="Least score of a skill that is chosen, or auto.",
    show_default=True,
)
@store_options
@output_options
def route(
    prompts: tuple[str, ...],
    *,
    base: str,
    skills: str | None,
    method: str,
    top_k: int,
    threshold: float | Literal["auto"],
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Say which skills serve a prompt, or that the base should answer it, since no skill is for such prompts.

    BASE is a model folder or a Hub id. The methods prototype, linear and self-refined compare a prompt with examples
    that are attached to the skills (skillpack add-examples, skillpack pack --examples); arrow looks only at what the
    skills change, and likelihood at how likely they find the prompt. docs/route.md says how good each is. Skills of
    the library that cannot be used (no examples, another base, damaged) are left out, with the reason; --skills makes
    that an error.
    """
    addresses = None if skills is None else [address for address in skills.split(",") if address]
    with output.trust_warnings():
        routes = skillpack.route(
            list(prompts),
            base,
            addresses,
            method=method,
            top_k=top_k,
            threshold=threshold,
            store=store,
            branch=branch,
        )
    if output.as_json:
        output.document(route_document(prompts, routes))
        return
    rows = [(_short(prompt), *_cells(found)) for prompt, found in zip(prompts, routes, strict=True)]
    output.table({"prompt": "left", "skills": "left", "scores": "left"}, rows)
    output.say(*_left_out(routes.left_out))


def _cells(found: Route) -> tuple[str, str]:
    chosen = ", ".join(choice.name for choice in found.choices) or "(base)"
    return chosen, ", ".join(f"{scored.name} {scored.score:.2f}" for scored in found.scores[:5])


def _left_out(reasons: Mapping[str, str]) -> list[str]:
    told = [f"left out {name}: {reason}" for name, reason in sorted(reasons.items())]
    return told if len(told) <= _REASONS else [*told[:_REASONS], f"left out {len(told) - _REASONS} more"]


def _short(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= 40 else f"{line[:39]}…"


@click.command(
    name="add-examples",
    short_help="Attach examples of what a skill is for.",
    epilog="Example: skillpack add-examples math prompts.jsonl --base org/base",
)
@click.argument("skill", metavar="SKILL")
@click.argument("data", metavar="DATA")
@click.option("--base", type=click.Path(), metavar="BASE", required=True, help="The model that it was packed from.")
@click.option(
    "--no-refined", is_flag=True, help="Save half the time; the method self-refined cannot choose the skill then."
)
@store_options
@output_options
def add_examples(
    skill: str, data: str, *, base: str, no_refined: bool, store: str | None, branch: str, output: Output
) -> None:
    """Attach examples of what a skill is for, so that skillpack route can choose it.

    SKILL is an address. DATA is as for skillpack eval: prompts, one to a line of a .jsonl file ({"prompt": …}), or the
    texts of a .txt file; some dozen, as users of the skill send them. The texts are not kept: what is attached is what
    the base makes of them, a vector for each. The skill stays as it is, and the examples go wherever it goes.
    """
    report = skillpack.add_examples(skill, data, base, refined=not no_refined, store=store, branch=branch)
    output.result(
        examples_document(report),
        f"attached {counted(report.added, 'example')} to {report.name}, which has {report.total} now",
        "next: skillpack route PROMPT --base BASE",
    )
