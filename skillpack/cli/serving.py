"""The command `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

import skillpack
from skillpack.cli.console import counted
from skillpack.cli.options import output_options, parse_size, store_options
from skillpack.cli.routing import parse_threshold
from skillpack.cli.serving_documents import serve_document
from skillpack.errors import UsageError
from skillpack.settings import API_KEY_VARIABLE

if TYPE_CHECKING:
    from skillpack.cli.console import Output
    from skillpack.serving.server import Serving


def _as_size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    del context, parameter
    return parse_size(value)


@click.command(
    short_help="Answer requests as OpenAI's servers do, each with its skills.",
    epilog="Example: skillpack serve ./base --skills math,code@3",
)
@click.argument("base", metavar="BASE")
@click.option(
    "--skills",
    multiple=True,
    metavar="SKILL,…",
    help="Skills to load at once, such as math,code@3; requests choose among them, and their weights.",
)
@click.option("--name", metavar="NAME", help="Name of the base for clients; by default that of its folder.")
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 for any."
)
@click.option(
    "--api-key",
    envvar=API_KEY_VARIABLE,
    show_envvar=True,
    metavar="KEY",
    help="Key that clients must send; the variable does not show in the list of processes.",
)
@click.option("--allow-anyone", is_flag=True, help="Listen without a key on an address that others reach.")
@click.option(
    "--loading/--no-loading", default=True, show_default=True, help="Let clients load and unload skills of the library."
)
@click.option(
    "--slots", default=8, show_default=True, type=click.IntRange(1), help="Answers that are written at the same time."
)
@click.option(
    "--queue",
    default=64,
    show_default=True,
    type=click.IntRange(0),
    help="Answers that wait for a slot; further ones are turned away.",
)
@click.option("--max-tokens", default=1024, show_default=True, type=click.IntRange(1), help="Most tokens of an answer.")
@click.option(
    "--max-skills", default=32, show_default=True, type=click.IntRange(1), help="Most skills that are loaded."
)
@click.option(
    "--max-body",
    default="4MiB",
    show_default=True,
    callback=_as_size,
    metavar="SIZE",
    help="Largest body of a request.",
)
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="How long an answer may take, and how long a stop waits for answers.",
)
@click.option(
    "--prefix-cache",
    default="256MiB",
    show_default=True,
    callback=_as_size,
    metavar="SIZE",
    help="Memory for what was computed for beginnings of prompts; 0 for none.",
)
@click.option("--router", metavar="METHOD", help='Choose the skills of "NAME+auto" by this method, such as prototype.')
@click.option(
    "--router-top-k", default=1, show_default=True, type=click.IntRange(1), metavar="K", help="Most skills it chooses."
)
@click.option(
    "--router-threshold",
    default="auto",
    show_default=True,
    type=parse_threshold,
    metavar="X",
    help="Least score of a skill that it chooses, or auto.",
)
@click.option("--device", metavar="DEVICE", help="Where the model runs, such as cpu or cuda:1; by default a GPU.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="What the model computes in; by default float32 on a CPU and the checkpoint's own on a GPU.",
)
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Certificate for https, PEM."
)
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="Its private key, PEM.")
@store_options
@output_options
def serve(
    *,
    base: str,
    skills: tuple[str, ...],
    name: str | None,
    host: str,
    port: int,
    api_key: str | None,
    allow_anyone: bool,
    loading: bool,
    slots: int,
    queue: int,
    max_tokens: int,
    max_skills: int,
    max_body: int,
    timeout: float,
    prefix_cache: int,
    router: str | None,
    router_top_k: int,
    router_threshold: float | Literal["auto"],
    device: str | None,
    dtype: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Serve a base model, with skills that each request chooses: model="NAME+math", "NAME+math=0.5+code".

    The protocol is OpenAI's, so that its clients work; docs/serving.md has all endpoints. Requests with different
    skills run in the same forward passes. A skill can be loaded, replaced and unloaded meanwhile, and answers that
    have begun keep what they began with. SIGTERM or Ctrl-C ends the server once the answers that are being written are
    finished, a second one at once.

    With --router the model "NAME+auto" lets the server choose: the skill, if any, whose own prompts are most like the
    request's (docs/route.md), or as many as --router-top-k. The answer names what was chosen.

    With --json one object is printed when the server answers, and the log on stderr is JSON as well.
    """
    addresses = [address for text in skills for address in text.split(",") if address]
    if weighted := [address for address in addresses if "=" in address]:
        raise UsageError(
            f"{weighted[0]} has a weight, but it is each request that chooses one",
            hint=f'Load {weighted[0].partition("=")[0]}, and ask for the model "NAME+{weighted[0]}".',
        )
    settings = skillpack.ServeSettings(
        host=host,
        port=port,
        api_key=api_key,
        allow_anyone=allow_anyone,
        name=name,
        loading=loading,
        slots=slots,
        queue=queue,
        max_tokens=max_tokens,
        max_skills=max_skills,
        max_body=max_body,
        timeout=timeout,
        prefix_cache=prefix_cache,
        router=router,
        router_top_k=router_top_k,
        router_threshold=router_threshold,
        device=device,
        dtype=dtype,
        tls_cert=tls_cert,
        tls_key=tls_key,
        log=_log(output),
    )
    with output.trust_warnings():
        skillpack.serve(
            base, addresses, store=store, branch=branch, settings=settings, ready=lambda found: _tell(found, output)
        )


def _log(output: Output) -> Literal["text", "json", "quiet"]:
    if output.quiet:
        return "quiet"
    return "json" if output.as_json else "text"


def _tell(serving: Serving, output: Output) -> None:
    labels = ", ".join(skill.label for skill in serving.skills) or "none"
    output.result(
        serve_document(serving),
        f"serving {serving.base} at {serving.url}/v1 on {serving.device}, up to {counted(serving.context, 'token')}",
        f"skills: {labels}; Ctrl-C ends the server",
    )
