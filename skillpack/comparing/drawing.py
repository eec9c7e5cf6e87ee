"""Pictures of a comparison, the same bytes for the same figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skillpack.errors import UsageError
from skillpack.packing.drawing import METADATA, check_drawing
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.comparing.comparison import CompareReport

KINDS: Final = "png", "svg"
_CELL: Final = 0.45
"""Inches of a cell of the matrix."""
_NUMBERED: Final = 30
"""Skills up to which cells carry their numbers."""


def check_picture(path: str | Path) -> None:
    """Make sure that a picture can be drawn to a file of this name.

    Raises:
        UsageError: the name does not end in .png or .svg, or matplotlib is not installed.
    """
    if Path(path).suffix.lower().removeprefix(".") not in KINDS:
        raise UsageError(f"{path} is no name of a picture", hint="End it in .png or .svg.")
    check_drawing()


def draw_comparison(report: CompareReport, path: str | Path) -> None:
    """Write a heat map of all skills with all, and one of all pairs along the layers.

    Args:
        report: of two skills or more.
        path: the file, ending in .png or .svg; replaced if it is there.

    Raises:
        UsageError: see `check_picture`.
        OSError: it cannot be written.
    """
    check_picture(path)
    disk.replace(Path(path), [_drawn(report, Path(path).suffix.lower().removeprefix("."))])


def _drawn(report: CompareReport, kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    blocks = [place.name for place in report.pairs[0].layers if place.name != "rest"]
    size, pairs = len(report.names), len(report.pairs)
    heights = [_CELL * size + 1.2, *([0.25 * pairs + 1.2] if blocks else [])]
    content = io.BytesIO()
    # Names inside an SVG are random without a salt.
    with mpl.rc_context({"svg.hashsalt": "skillpack"}):
        figure = Figure(figsize=(max(7.0, _CELL * size + 3), sum(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        image = _draw_matrix(panels[0], report)
        if blocks:
            _draw_layers(panels[1], report, blocks)
        figure.colorbar(image, ax=list(panels), label="cosine of the deltas", shrink=0.8)
        figure.savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    return content.getvalue()


def _draw_matrix(panel: Any, report: CompareReport) -> Any:
    values = _array(report.cosine)
    image = panel.imshow(values, cmap="PuOr_r", vmin=-1, vmax=1)
    places = range(len(report.names))
    panel.set_xticks(places, [_plain(name) for name in report.names], rotation=40, ha="right")
    panel.set_yticks(places, [_plain(name) for name in report.names])
    if len(places) <= _NUMBERED:
        for row in places:
            for column in places:
                if row != column and not np.isnan(values[row, column]):
                    dark = abs(values[row, column]) > 0.6
                    panel.text(
                        column,
                        row,
                        f"{values[row, column]:.2f}",
                        ha="center",
                        va="center",
                        size=8,
                        color="white" if dark else "black",
                    )
    return image


def _draw_layers(panel: Any, report: CompareReport, blocks: Sequence[str]) -> None:
    rows = []
    for pair in report.pairs:
        own = {place.name: place.figures.cosine for place in pair.layers}
        rows.append([own.get(block) for block in blocks])
    panel.imshow(_array(rows), cmap="PuOr_r", vmin=-1, vmax=1, aspect="auto")
    panel.set_yticks(range(len(rows)), [_plain(f"{pair.first}, {pair.second}") for pair in report.pairs])
    panel.set_xlabel("block of layers, in the order of the model")


def _array(rows: Sequence[Sequence[float | None]]) -> Any:
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def _plain(name: str) -> str:
    """A name in which nothing is taken for a formula."""
    return name.replace("$", r"\$")
