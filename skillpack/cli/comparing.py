"""The command `compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import click

import skillpack
from skillpack.cli.comparing_documents import cluster_document, compare_document
from skillpack.cli.console import counted
from skillpack.cli.options import output_options, store_options
from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.cli.console import Output
    from skillpack.comparing import ClusterReport, CompareReport, Pair, Place
    from skillpack.comparing.maps import Map
    from skillpack.comparing.measures import Figures

_SHADES: Final = " ░▒▓█"
_FIGURES: Final[dict[str, Literal["left", "right"]]] = {
    "cosine": "right",
    "opposed": "right",
    "outvoted": "right",
    "directions": "right",
}


@click.command(short_help="Will these skills clash?", epilog="Example: skillpack compare math code --plot clash.svg")
@click.argument("skills", metavar="[SKILL...]", nargs=-1)
@click.option("--layers", is_flag=True, help="Figures of each block of layers too.")
@click.option("--tensors", is_flag=True, help="Figures of each tensor too.")
@click.option("--rank", type=click.IntRange(1), metavar="R", help="Compare so many directions a matrix; default 8.")
@click.option("--base", type=click.Path(), metavar="BASE", help="The base, for what comes back bit for bit.")
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE", help="Draw heat maps to a .png or .svg file.")
@click.option("--cluster", is_flag=True, help="Group the skills, and find near-duplicates, instead.")
@click.option("--groups", type=click.IntRange(1), metavar="N", help="With --cluster: make so many groups.")
@store_options
@output_options
def compare(
    skills: tuple[str, ...],
    *,
    layers: bool,
    tensors: bool,
    rank: int | None,
    base: str | None,
    plot: str | None,
    cluster: bool,
    groups: int | None,
    store: str | None,
    branch: str,
    output: Output,
) -> None:
    """Compare what skills do to the weights, pair by pair: will they clash when they are summed?

    SKILL is an address, with a weight if it is not 1; without any, all skills of the branch are compared.

    The cosine is that of the two deltas. Opposed is the share of weights that the two pull in opposite directions, of
    those that both change, and outvoted the same with each weight counted by the smaller of its two changes; chance
    gives 50 % of both. Directions is how much of the strongest input and output directions they have in common, and how
    many times that is what chance gives. Same tensors says how much of their energy is in the same places, and norms
    how many times the larger delta is as long as the smaller one.

    With --cluster the skills are grouped by the similarity of their deltas instead. What is found out about a skill is
    kept in the store, so that a library of hundreds is grouped in seconds. In Python: skillpack.cluster.
    """
    if groups is not None and not cluster:
        raise UsageError("--groups goes with --cluster")
    if cluster:
        _refuse_with_cluster({"--layers": layers, "--tensors": tensors, "--rank": rank, "--plot": plot})
        with output.progress() as progress:
            clustered = skillpack.cluster(
                skills, groups=groups, base=base, store=store, branch=branch, progress=progress
            )
        if output.as_json:
            output.document(cluster_document(clustered))
        else:
            _print_groups(clustered, output)
        return
    if plot is not None:
        from skillpack.comparing.drawing import check_picture

        check_picture(plot)
    options = {} if rank is None else {"rank": rank}
    with output.progress() as progress:
        found = skillpack.compare(skills, base=base, store=store, branch=branch, progress=progress, **options)
    if plot is not None:
        from skillpack.comparing.drawing import draw_comparison, left_out_of_picture

        draw_comparison(found, plot)
        if note := left_out_of_picture(found):
            output.say(note)
    _print_comparison(found, output, plot, layers=layers, tensors=tensors)


def _print_comparison(found: CompareReport, output: Output, plot: str | None, *, layers: bool, tensors: bool) -> None:
    if output.as_json:
        output.document(compare_document(found))
        return
    _print_pairs(found, output)
    _print_layers(found, output)
    for pair in found.pairs:
        if layers:
            _print_places(pair, "block of layers", pair.layers, output)
        if tensors:
            _print_places(pair, "tensor", pair.tensors, output)
    _say_left_out(found, output)
    if plot is not None:
        output.say(f"drawn: {plot}")


def _refuse_with_cluster(given: dict[str, object]) -> None:
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise UsageError(f"{wrong[0]} does not go with --cluster", hint="Compare a few skills by name to look closer.")


def _print_pairs(found: CompareReport, output: Output) -> None:
    output.table(
        {"skills": "left", **_FIGURES, "same tensors": "right", "norms": "right"},
        [
            (
                f"{pair.first}, {pair.second}",
                *_figures(pair.total),
                f"{pair.shared_energy:.0%}",
                "" if pair.norm_ratio is None else f"{pair.norm_ratio:.1f} x",
            )
            for pair in found.pairs
        ],
    )
    output.lines("", *(f"{pair.first}, {pair.second}: {pair.verdict.text}" for pair in found.pairs))


def _print_layers(found: CompareReport, output: Output) -> None:
    """Heat maps: a row a pair, a character a block of layers."""
    from skillpack.comparing.maps import MAPS, blocks_of

    blocks = blocks_of(found)
    width = max(len(f"{pair.first}, {pair.second}") for pair in found.pairs)
    for one in MAPS:
        opposed = "  - opposed" if one.signed else ""
        scale = "  ".join(f"{shade} from {limit:.0%}" for shade, limit in zip(_SHADES[1:], one.limits, strict=True))
        output.lines("", f"{one.name}, block of layers by block of layers ({scale}{opposed}):")
        for pair in found.pairs:
            strip = "".join(_shade(value, one) for value in one.along(pair, blocks))
            output.lines(f"  {f'{pair.first}, {pair.second}':<{width}} |{strip}|")


def _shade(value: float | None, one: Map) -> str:
    if value is not None and one.signed and value <= -one.limits[0]:
        return "-"
    return _SHADES[0 if value is None else sum(value >= limit for limit in one.limits)]


def _print_places(pair: Pair, what: str, places: Sequence[Place], output: Output) -> None:
    output.lines("", f"{pair.first}, {pair.second}:")
    totals = [sum(place.energies[side] for place in places) or 1.0 for side in (0, 1)]
    output.table(
        {what: "left", **_FIGURES, f"energy of {pair.first}": "right", f"of {pair.second}": "right"},
        [
            (
                "others" if place.name == "rest" else place.name,
                *_figures(place.figures),
                *(f"{energy / total:.1%}" for energy, total in zip(place.energies, totals, strict=True)),
            )
            for place in places
        ],
    )


def _figures(figures: Figures) -> Iterator[str]:
    yield "" if figures.cosine is None else f"{figures.cosine:.3f}"
    yield "" if figures.conflict is None else f"{figures.conflict:.1%}"
    yield "" if figures.weighted_conflict is None else f"{figures.weighted_conflict:.1%}"
    both = figures.left_overlap, figures.right_overlap
    if both[0] is None or both[1] is None or not figures.chance_overlap:
        yield ""
    else:
        overlap = (both[0] + both[1]) / 2
        yield f"{overlap:.1%}, {overlap / figures.chance_overlap:.1f} x chance"


def _say_left_out(found: CompareReport, output: Output) -> None:
    reasons = sorted(set(found.left_out.values()))
    for reason in reasons:
        count = sum(own == reason for own in found.left_out.values())
        output.say(f"note: {counted(count, 'tensor')} left out: {reason}")


def _print_groups(found: ClusterReport, output: Output) -> None:
    if not found.names:
        output.say("there is no skill to group", "next: skillpack pack BASE TUNED")
        return
    output.table(
        {"group": "right", "skills": "left", "mean cosine": "right"},
        [
            (str(number), ", ".join(group.names), "" if group.cosine is None else f"{group.cosine:.2f}")
            for number, group in enumerate(found.groups, start=1)
        ],
    )
    if found.duplicates:
        output.lines("", "near-duplicates:")
        output.lines(*(f"  {pair.first}, {pair.second}: cosine {pair.cosine:.2f}" for pair in found.duplicates))
    for name, reason in found.left_out.items():
        output.say(f"note: {name} is in no group: {reason}")
