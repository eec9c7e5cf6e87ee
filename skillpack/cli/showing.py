"""The command `show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import click

import skillpack
from skillpack.cli.compose_documents import recipe_lines
from skillpack.cli.console import counted, human, moment
from skillpack.cli.documents import show_document
from skillpack.cli.options import output_options, store_options
from skillpack.errors import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skillpack.cli.console import Output
    from skillpack.cli.kinds import Kind, Range
    from skillpack.library import SkillDetails
    from skillpack.remotes import RemoteSkill

_FIGURES: Final[dict[str, Literal["left", "right"]]] = {
    "bytes": "right",
    "share": "right",
    "codec": "left",
    "rank": "right",
    "bits/weight": "right",
    "error": "right",
    "x bound": "right",
}


@click.command(
    short_help="Show what a skill changes and what it takes.", epilog="Example: skillpack show math@3 --tensors"
)
@click.argument("skill", metavar="SKILL")
@click.option("--tensors", is_flag=True, help="List every tensor instead of the kinds of modules.")
@click.option("--card", is_flag=True, help="Print the model card instead, as Markdown.")
@click.option("--remote", metavar="REMOTE", help="Look at a remote's skill, by name or address, without a pull.")
@click.option("--insecure", is_flag=True, help="Allow plain HTTP to other computers.")
@store_options
@output_options
def show(
    skill: str,
    *,
    tensors: bool,
    card: bool,
    remote: str | None,
    insecure: bool,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Show what a skill changes, and bytes, share, codec, rank, bits per weight and error of each kind of module.

    SKILL is an address. The error is what coding left out of the delta, relative to the delta (Frobenius norms); where
    a kind holds several tensors the least and the largest are given. Bytes are the coded ones; the manifest's own are
    listed at the end, so that the sum is the size of the skill on disk.

    The last column, x bound, is how many times the least bytes are taken that any code needs on average to come as
    close to Gaussian deltas of the same structure (docs/compression.md). What comes back bit for bit has no such bound.

    With --remote a skill is looked at where it is, as NAME or NAME@TAG: its manifest and its card are read, a few
    kilobytes, and nothing is stored. In Python: skillpack.show_remote.
    """
    found: SkillDetails | RemoteSkill
    if remote is None:
        found = skillpack.show(skill, store=store, branch=branch)
    else:
        found = skillpack.show_remote(skill, remote, branch=branch, insecure=insecure, store=store)
    if output.as_json:
        output.document(show_document(found))
    elif card:
        output.lines(found.card.rstrip("\n") or "There is no model card.")
    else:
        output.lines(*_header(found), "")
        if tensors:
            _print_tensors(found, output)
        else:
            _print_kinds(found, output)


def _header(found: SkillDetails | RemoteSkill) -> Iterator[str]:
    summary, manifest = found.summary, found.manifest
    yield f"{summary.name} version {summary.version or '-'}"
    yield f"digest: {summary.digest}"
    yield f"size: {human(summary.size)} ({summary.size:,} bytes)"
    yield f"committed: {moment(summary.time)} by {summary.author}: {summary.message}"
    yield f"base: {manifest.base_fingerprint}"
    if manifest.recipe is None:
        yield f"fine-tune: {manifest.tuned_fingerprint}"
    else:
        yield from recipe_lines(manifest.recipe)
    over = manifest.over_bound(summary.size)
    if manifest.bound is not None and over is not None:
        yield f"bound: {human(manifest.bound)}; what is approximated takes {over:.3g} times that, manifest included"
    yield f"tensors changed: {len(manifest.tensors)}"
    if manifest.gone:
        yield f"tensors gone: {listing(name for name, _ in manifest.gone)}"
    if manifest.renaming.strip or manifest.renaming.add:
        yield f"names: {manifest.renaming.strip or 'no prefix'} becomes {manifest.renaming.add or 'no prefix'}"
    yield f"files changed: {listing((f'{file.path} ({file.kind})' for file in manifest.files), 20) or 'none'}"


def _print_kinds(found: SkillDetails | RemoteSkill, output: Output) -> None:
    from skillpack.cli.kinds import by_kind

    total = found.summary.size
    manifest = found.manifest
    rows: list[tuple[str, ...]] = [
        (kind.name, str(kind.tensors), *_figures(kind, total)) for kind in by_kind(manifest.tensors)
    ]
    coded_files = sum(file.coded for file in manifest.files)
    rest = total - coded_files - sum(entry.nbytes for entry in manifest.tensors)
    if coded_files:
        rows.append(
            (counted(len(manifest.files), "file"), "", human(coded_files), _share(coded_files, total), *[""] * 5)
        )
    rows.append(("manifest, headers", "", human(rest), _share(rest, total), *[""] * 5))
    output.table({"modules": "left", "tensors": "right", **_FIGURES}, rows)


def _print_tensors(found: SkillDetails | RemoteSkill, output: Output) -> None:
    from skillpack.cli.kinds import Kind

    rows = []
    for entry in found.manifest.tensors:
        alone = Kind.of(entry.name, [entry])
        shape = "x".join(map(str, entry.shape)) or "scalar"
        rows.append((entry.name, entry.dtype, shape, *_figures(alone, found.summary.size)))
    output.table({"tensor": "left", "dtype": "left", "shape": "right", **_FIGURES}, rows)


def _figures(kind: Kind, total: int) -> tuple[str, ...]:
    return (
        human(kind.nbytes),
        _share(kind.nbytes, total),
        "+".join(kind.codecs),
        "" if kind.ranks is None else _range(kind.ranks),
        f"{kind.bits_per_weight:.3g}",
        _range(kind.errors),
        "" if kind.over_bound is None else f"{kind.over_bound:.3g}",
    )


def _range(numbers: Range) -> str:
    low, high = (f"{number:.3g}" for number in numbers)
    return low if low == high else f"{low}-{high}"


def _share(part: int, total: int) -> str:
    return f"{part / max(1, total):.1%}"
