"""Commands that bring skills out of the library and into it: export, import."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import skillpack
from skillpack.cli.console import counted, human
from skillpack.cli.documents import import_document
from skillpack.cli.exchange_documents import adapter_document, archive_document, merged_document
from skillpack.cli.options import history_options, output_options, store_options, yes_option
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skillpack.cli.console import Output
    from skillpack.interop import AdapterExport
    from skillpack.summaries import SkillSummary


_WAYS: Final = {
    "factors": "by factors",
    "truncated": "by factors that leave something out",
    "whole": "whole",
    "rows": "by rows",
    "bias": "as biases",
}


@click.command(
    short_help="Write skills for others: an archive, an adapter, a model.",
    epilog="Example: skillpack export math ./math-lora --format peft --base org/base",
)
@click.argument("skills", metavar="SKILL...", nargs=-1, required=True)
@click.argument("file", metavar="TARGET", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["archive", "peft", "vllm", "merged"]),
    default="archive",
    help="What TARGET is to be.",
    show_default=True,
)
@click.option("--base", metavar="BASE", help="Model that the skill was packed from; not for an archive.")
@click.option("--rank", type=click.IntRange(1), metavar="N", help="Adapters: at most this rank for each matrix.")
@click.option("--energy", type=float, metavar="SHARE", help="Adapters: share of each delta's squared norm to keep.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Adapters: of the factors.")
@click.option("--strict", is_flag=True, help="Adapters: refuse rather than leave anything out.")
@click.option("--force", is_flag=True, help="Merged: also on another base than a skill's own.")
@store_options
@yes_option
@output_options
def export(
    skills: tuple[str, ...],
    file: Path,
    *,
    kind: str,
    base: str | None,
    force: bool,
    store: str | None,
    branch: str,
    yes: bool,
    output: Output,
    **adapter: Any,
) -> None:
    """Write skills to TARGET, for other stores or for other tools. SKILL is an address.

    archive: skills with their model cards as one file, an OCI archive that registries and skopeo read. A file that is
    there is overwritten after a question, or with -y.

    peft: one skill as a new folder that PEFT loads as a LoRA adapter. Factors are written as they were coded, other
    deltas are decomposed, and what is no matrix is kept whole. What an adapter cannot hold is listed; --strict
    refuses then. A weight may be given: math=0.5.

    vllm: the same with what vLLM loads only: factors of one rank, no modules kept whole.

    merged: a new model folder with one or several skills in it, math code=0.5, that nothing manages.

    In Python: skillpack.export, skillpack.export_adapter and skillpack.export_merged.
    """
    _check_options(kind, base, skills, adapter, force=force)
    where: dict[str, Any] = {"store": store, "branch": branch}
    if kind == "archive":
        _export_archive(skills, file, where, output, yes=yes)
    elif kind == "merged":
        with output.trust_warnings(), output.progress() as progress:
            merged = skillpack.export_merged(skills, file, str(base), force=force, progress=progress, **where)
        named = [skillpack.show(label, **where).summary for label, _ in merged.skills]
        output.result(
            merged_document(merged, named),
            f"wrote {merged.folder} with {listing(skills)}: {human(merged.nbytes)}, "
            f"{counted(len(merged.written), 'file')} not as in the base",
            "it is a plain model folder; skillpack install -o makes one that skills can be taken off again",
        )
    else:
        with output.trust_warnings(), output.progress() as progress:
            adapter["format"] = kind
            done = skillpack.export_adapter(skills[0], file, str(base), progress=progress, **where, **adapter)
        output.result(adapter_document(done), *_adapter_summary(done))


def _check_options(
    kind: str, base: str | None, skills: tuple[str, ...], adapter: dict[str, Any], *, force: bool
) -> None:
    if kind != "archive" and base is None:
        raise UsageError(f"--format {kind} needs the model that the skill was packed from", hint="Add --base BASE.")
    given = [f"--{name}" for name, value in {**adapter, "base": base, "force": force}.items() if value]
    allowed = {"archive": set(), "merged": {"--base", "--force"}}.get(
        kind, {f"--{name}" for name in (*adapter, "base")}
    )
    if wrong := [name for name in given if name not in allowed]:
        raise UsageError(f"{listing(wrong)} has no meaning for --format {kind}", hint="Leave it out.")
    if kind in {"peft", "vllm"} and len(skills) > 1:
        raise UsageError("an adapter holds one skill", hint="Export them one by one, or --format merged.")


def _export_archive(skills: tuple[str, ...], file: Path, where: dict[str, Any], output: Output, *, yes: bool) -> None:
    if file.is_file():
        output.confirm(f"{file} exists. Overwrite it?", yes=yes)
        yes = True
    written = skillpack.export(skills, file, overwrite=yes, **where)
    size = file.stat().st_size
    output.result(
        archive_document(written, file, size),
        f"exported {listing(map(_address, written))} to {file}, {human(size)}",
        f"next: skillpack import {shlex.quote(str(file))}",
    )


def _adapter_summary(done: AdapterExport) -> Iterator[str]:
    counts: dict[str, int] = {}
    for tensor in done.tensors:
        counts[tensor.how] = counts.get(tensor.how, 0) + 1
    ways = ", ".join(f"{number} {_WAYS[how]}" for how, number in counts.items())
    carried = f"{counted(len(done.tensors), 'tensor')} ({ways})"
    yield f"wrote {done.folder}: {carried}, rank {done.rank}, {human(done.nbytes)}"
    if done.error:
        yield f"largest relative error of a tensor: {done.error:.3g}"
    reasons: dict[str, list[str]] = {}
    for lost in done.lost:
        reasons.setdefault(lost.reason, []).append(lost.name)
    for reason, names in reasons.items():
        yield f"left out: {listing(names, 3)}: {reason}"
    if not done.lost and not done.error:
        yield "nothing was lost"
    yield (
        f"next: vllm serve BASE --enable-lora --max-lora-rank {done.vllm_rank} --lora-modules NAME={done.folder}"
        if done.format == "vllm"
        else f'next: peft.PeftModel.from_pretrained(model, "{done.folder}")'
    )


@click.command(
    "import",
    short_help="Take an archive or a LoRA adapter into the library.",
    epilog="Example: skillpack import ./math-lora --base org/base --name math",
)
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("--name", metavar="NAME", help="Another name for the skill, if the file holds one.")
@click.option("--base", metavar="BASE", help="Model that an adapter belongs to.")
@history_options
@store_options
@output_options
def import_(
    file: str,
    *,
    name: str | None,
    base: str | None,
    message: str,
    author: str | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Take the skills of a file into the library, every byte checked against its digest.

    FILE is an OCI archive, as skillpack export writes it. Signatures come along, and your policy decides whether a
    skill has to have one (skillpack policy -h).

    With --base, FILE is the folder or Hub id of a PEFT LoRA adapter, or one that mergekit extracted. Its factors are
    kept bit for bit: the skill installs as the very model that merging gives, and exports as the same adapter. In
    Python: skillpack.import_adapter.
    """
    entry: dict[str, Any] = {"store": store, "branch": branch, "message": message, "author": author}
    if base is not None:
        with output.progress() as progress:
            packed = skillpack.import_adapter(file, base, name, progress=progress, **entry)
        taken = [skillpack.show(f"{packed.name}@{packed.digest}", store=store, branch=branch).summary]
    elif (Path(file) / "adapter_config.json").is_file():
        raise UsageError(f"{file} is a LoRA adapter, which needs its base", hint="Add --base BASE.")
    else:
        with output.trust_warnings():
            taken = skillpack.import_skill(file, name, **entry)
    output.result(
        import_document(taken),
        f"imported {listing(map(_address, taken))}, {human(_total(taken))}",
        f"next: skillpack install {taken[0].name} MODEL_DIR",
    )


def _address(skill: SkillSummary) -> str:
    return skill.name if skill.version is None else f"{skill.name}@{skill.version}"


def _total(skills: Iterable[SkillSummary]) -> int:
    return sum(skill.size for skill in skills)
