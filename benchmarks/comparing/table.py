"""Our bytes beside those of other methods, at the divergences that these reach.

    python -m benchmarks.comparing.table

Prints Markdown from the figures that `benchmarks.comparison` has saved. Of each method and fine-tune the setting is
shown at which it comes closest to us; our bytes at its divergence are read off the line between our own points. Then
come all skills, with how many times the rate-distortion bound of their own squared error they take, and of those that
learned from texts what share of the bytes that saves at the same divergence; last what it saves on average.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import results
from benchmarks.comparing.curves import Point, bytes_at, mean_saving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KL_RANGE = 2e-4, 5e-2
"""Divergences that methods are compared at, nats per prediction."""
OURS, CALIBRATED = "SkillPack", "SkillPack, calibrated"


class Row(NamedTuple):
    """One setting of a method on one fine-tune.

    Attributes:
        task: of the fine-tune.
        method: its name.
        setting: what it was set to.
        point: its bytes and its divergence.
        plain: our bytes at that divergence without texts; None where our curve does not reach it.
        calibrated: our bytes with texts.
    """

    task: str
    method: str
    setting: str
    point: Point
    plain: float | None
    calibrated: float | None

    @property
    def share(self) -> float:
        """Our bytes over theirs, without texts; more than any share where our curve does not reach that far."""
        return float("inf") if self.plain is None else self.plain / self.point[0]


def main() -> None:
    """Print all tables."""
    figures = results.load("comparison")["figures"]
    print("\n".join([*table(figures), "", *own(figures), "", *savings(figures)]))


def table(figures: dict[str, Any]) -> Iterator[str]:
    """The lines of the table: of each method the hardest setting for us on each fine-tune."""
    yield "| fine-tune | method, at its strongest against us | its size | KL | ours at that KL | calibrated |"
    yield "|---|---|---|---|---|---|"
    rows = sorted(all_rows(figures), key=lambda row: (row.task, row.method, -row.share))
    for _, group in groupby(rows, key=lambda row: (row.task, row.method)):
        row = next(group)
        size, kl = row.point
        yield (
            f"| {row.task} | {row.method} ({row.setting}) | {size / 1e6:.2f} MB | {kl:.2g} "
            f"| {_ours(row.plain, size)} | {_ours(row.calibrated, size)} |"
        )


def own(figures: dict[str, Any]) -> Iterator[str]:
    """The lines of the table of our skills."""
    yield "| fine-tune | skill | its size | KL | times the bound | saved by texts |"
    yield "|---|---|---|---|---|---|"
    for task, found in sorted(figures["tasks"].items()):
        plain = _curve(found["points"], OURS)
        skills = [point for point in found["points"] if point["method"] in {OURS, CALIBRATED}]
        for point in sorted(skills, key=lambda point: (point["method"], point["bytes"])):
            over = f"{point['over_bound']:.3g}" if "over_bound" in point else "-"
            without = bytes_at(point["kl"], plain) if point["method"] == CALIBRATED else None
            saved = "-" if without is None else f"{100 * (1 - point['bytes'] / without):.0f} %"
            size = f"{point['bytes'] / 1e6:.2f} MB"
            yield f"| {task} | {point['method']} | {size} | {point['kl']:.2g} | {over} | {saved} |"


def savings(figures: dict[str, Any]) -> Iterator[str]:
    """The lines of the table of what texts save on average over the range of divergences."""
    yield "| fine-tune | saved by texts on average |"
    yield "|---|---|"
    for task, found in sorted(figures["tasks"].items()):
        plain, calibrated = (_curve(found["points"], name) for name in (OURS, CALIBRATED))
        saved = mean_saving(calibrated, plain, *KL_RANGE)
        yield f"| {task} | {'-' if saved is None else f'{100 * saved:.0f} %'} |"


def all_rows(figures: dict[str, Any]) -> Iterator[Row]:
    """Every setting of every other method whose divergence is in the range."""
    low, high = KL_RANGE
    for task, found in figures["tasks"].items():
        plain, calibrated = (_curve(found["points"], name) for name in (OURS, CALIBRATED))
        for point in found["points"]:
            if point["method"] not in {OURS, CALIBRATED} and low <= point["kl"] <= high:
                sizes = bytes_at(point["kl"], plain), bytes_at(point["kl"], calibrated)
                yield Row(task, point["method"], point["setting"], (point["bytes"], point["kl"]), *sizes)


def _curve(points: Sequence[dict[str, Any]], method: str) -> list[Point]:
    return [(point["bytes"], point["kl"]) for point in points if point["method"] == method]


def _ours(size: float | None, theirs: int) -> str:
    return "-" if size is None else f"{size / 1e6:.2f} MB ({size / theirs:.2f})"


if __name__ == "__main__":
    main()
