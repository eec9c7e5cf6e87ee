"""The curves of all methods, one panel for each fine-tune.

    python -m benchmarks.comparing.plot

Writes ``benchmarks/results/comparison.png`` and ``.svg`` from the figures that `benchmarks.comparison` has saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.comparing.curves import frontier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KL_RANGE = 1e-4, 1.0
_OURS = "SkillPack"
_COLUMNS = 3


def main() -> None:
    """Draw and save."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    tasks = results.load("comparison")["figures"]["tasks"]
    rows = -(-len(tasks) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 4.2 * rows))
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True)
    methods = sorted({point["method"] for found in tasks.values() for point in found["points"]})
    colours = {method: f"C{place % 10}" for place, method in enumerate(methods)}
    for (task, found), panel in zip(tasks.items(), axes.flat, strict=False):
        _draw(panel, task, found["points"], colours)
    for panel in list(axes.flat)[len(tasks) :]:
        panel.set_axis_off()
    handles = [Line2D([], [], color=colours[method], marker="o", label=method) for method in methods]
    figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    # Without a salt of its own the file would differ from run to run.
    with mpl.rc_context({"svg.hashsalt": "skillpack"}):
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            figure.savefig(results.FOLDER / f"comparison.{kind}", dpi=110, metadata=metadata)


def _draw(panel: Any, task: str, points: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    for method in sorted({point["method"] for point in points}):
        own = [(point["bytes"], point["kl"]) for point in points if point["method"] == method]
        curve = frontier(own)
        ours = method.startswith(_OURS)
        panel.plot(
            [size / 1e6 for size, _ in curve],
            [kl for _, kl in curve],
            color=colours[method],
            linewidth=2.5 if ours else 1,
            zorder=3 if ours else 2,
        )
        panel.plot([size / 1e6 for size, _ in own], [kl for _, kl in own], "o", color=colours[method], markersize=4)
    panel.set(xscale="log", yscale="log", ylim=KL_RANGE, title=task, xlabel="MB on disk")
    panel.set_ylabel("KL(tuned || compressed), nats")
    panel.grid(visible=True, which="major", alpha=0.3)


if __name__ == "__main__":
    main()
