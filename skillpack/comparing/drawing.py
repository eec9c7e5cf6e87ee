"""Pictures of a comparison, the same bytes for the same figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from skillpack.comparing.maps import MAPS, blocks_of
from skillpack.errors import UsageError
from skillpack.packing.drawing import METADATA, check_drawing
from skillpack_store import disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.comparing.comparison import CompareReport

KINDS: Final = "png", "svg"
_FEW: Final = 30
"""Skills up to which there are panels along the layers, and numbers in the cells."""
_COLOURS: Final = "PuOr_r", "YlOrRd", "YlGnBu"
"""Of the three maps: diverging, where the sign counts, and sequential."""
_NOTHING: Final = "0.88"
"""Grey of cells without a figure."""
_SCALES: Final = 0.2, 0.4, 0.6, 0.8, 1.0
"""Ends that a scale of colours can have, so that small figures are seen and noise is not blown up."""
_NARROWEST, _WIDEST, _CELL, _SMALL_CELL, _ROW = 3.4, 30.0, 0.45, 0.16, 0.25
"""Inches: of a panel, of a cell with a number and without one, of a pair along the layers."""
_CHARACTER: Final = 0.085
"""Inches of a character of a label, generously."""
_LONGEST: Final = 40
"""Characters of a name that are shown."""


def check_picture(path: str | Path) -> None:
    """Make sure that a picture can be drawn to a file of this name.

    Raises:
        UsageError: the name does not end in .png or .svg, or matplotlib is not installed.
    """
    if Path(path).suffix.lower().removeprefix(".") not in KINDS:
        raise UsageError(f"{path} is no name of a picture", hint="End it in .png or .svg.")
    check_drawing()


def left_out_of_picture(report: CompareReport) -> str | None:
    """What a picture of these skills does not show, in plain words; None if it shows everything."""
    if len(report.names) <= _FEW:
        return None
    return f"{len(report.names)} skills: the picture shows single layers of {_FEW} at most; name fewer to see them"


def draw_comparison(report: CompareReport, path: str | Path) -> None:
    """Write heat maps of cosine, sign conflict and overlap: all skills with all, and all pairs along the layers.

    Args:
        report: of two skills or more.
        path: the file, ending in .png or .svg; replaced if it is there.

    Raises:
        UsageError: see `check_picture`.
        OSError: it cannot be written.
    """
    import matplotlib as mpl

    check_picture(path)
    kind = Path(path).suffix.lower().removeprefix(".")
    content = io.BytesIO()
    # Names inside an SVG are random without a salt.
    with mpl.rc_context({"svg.hashsalt": "skillpack"}):
        figure_of(report).savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    disk.replace(Path(path), [content.getvalue()])


def figure_of(report: CompareReport) -> Any:
    """The heat maps as a matplotlib figure, a column for each of the three figures.

    The panels along the layers are left out where they would not fit a picture; see `left_out_of_picture`.
    """
    from matplotlib.figure import Figure

    note = left_out_of_picture(report)
    blocks = [] if note else blocks_of(report)
    size, heights, margin = _measure(report, along=bool(blocks))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(heights), len(MAPS), squeeze=False, sharey="row", height_ratios=heights)
    for column, (one, colours) in enumerate(zip(MAPS, _COLOURS, strict=True)):
        matrix = _array(one.matrix(report))
        rows = _array([one.along(pair, blocks) for pair in report.pairs]) if blocks else np.empty((0, 0))
        end = _end_of_scale(matrix, rows)
        shades = {"cmap": colours, "vmin": -end if one.signed else 0.0, "vmax": end, "aspect": "auto"}
        image = _draw_matrix(panels[0, column], report, matrix, shades)
        bar = figure.colorbar(image, ax=panels[0, column], location="top", aspect=25, shrink=min(1.0, 4 / margin))
        bar.set_label(one.name, size="large")
        if blocks:
            _draw_layers(panels[1, column], report, blocks, rows, shades)
            panels[1, column].set_title(f"{one.name}, layer by layer", size="medium")
    figure.supxlabel(note or "grey: nothing to compare", size="medium", color="0.3")
    return figure


def _measure(report: CompareReport, *, along: bool) -> tuple[tuple[float, float], list[float], float]:
    """Inches of the figure, of its rows of panels, and the width of a panel."""
    count, pairs = len(report.names), len(report.pairs)
    side = min(_WIDEST, (_CELL if count <= _FEW else _SMALL_CELL) * count)
    width = max(_NARROWEST, side)
    longest = max(len(_label(name)) for name in report.names)
    names = _CHARACTER * longest
    labels = _CHARACTER * max(len(_pair_label(pair)) for pair in report.pairs) if along else names
    heights = [max(1.0, side), *([max(0.5, _ROW * pairs)] if along else [])]
    rest = names + 1.4 + (1.0 if along else 0.0)
    return (labels + len(MAPS) * (width + 0.2) + 0.5, sum(heights) + rest), heights, width


def _draw_matrix(panel: Any, report: CompareReport, values: Any, shades: dict[str, Any]) -> Any:
    panel.set_facecolor(_NOTHING)
    image = panel.imshow(values, **shades)
    count = len(report.names)
    few = count <= _FEW
    # From some 180 skills on the cells, and with them the names, get smaller.
    size = 9.0 if few else min(8.0, 0.7 * 72 * min(_SMALL_CELL, _WIDEST / count))
    labels = [_label(name) for name in report.names]
    panel.set_xticks(range(count), labels, size=size, **({"rotation": 40, "ha": "right"} if few else {"rotation": 90}))
    panel.set_yticks(range(count), labels, size=size)
    if few:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                text = f"{round(value, 2) + 0.0:.2f}"
                panel.text(column, row, text, ha="center", va="center", size=8, color=_ink(image, value))
    return image


def _ink(image: Any, value: float) -> str:
    """Black or white, whichever can be read on the colour of a value."""
    red, green, blue, _ = image.cmap(image.norm(value))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _draw_layers(panel: Any, report: CompareReport, blocks: Sequence[str], values: Any, shades: dict[str, Any]) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_facecolor(_NOTHING)
    panel.imshow(values, **shades)
    panel.set_yticks(range(len(values)), [_pair_label(pair) for pair in report.pairs], size=9)
    stems = {block.rpartition(".")[0] for block in blocks}
    numbers = [block.rpartition(".")[2] for block in blocks]
    if len(stems) == 1:
        step = -(-len(blocks) // 12)
        panel.set_xticks(range(0, len(blocks), step), numbers[::step], size=9)
        panel.set_xlabel(_plain(next(iter(stems))))
    else:
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panel.set_xlabel("block of layers, in the order of the model")


def _end_of_scale(*values: Any) -> float:
    largest = max((float(np.nanmax(np.abs(own))) for own in values if not np.isnan(own).all()), default=0.0)
    return next((end for end in _SCALES if largest <= end), 1.0)


def _array(rows: Sequence[Sequence[float | None]]) -> Any:
    return np.array([[np.nan if value is None else value for value in row] for row in rows])


def _pair_label(pair: Any) -> str:
    return f"{_label(pair.first)}, {_label(pair.second)}"


def _label(name: str) -> str:
    """A name without its middle if it is very long; its end may be a version or a weight."""
    return _plain(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 15]}…{name[-14:]}")


def _plain(name: str) -> str:
    """A name in which nothing is taken for a formula."""
    return name.replace("$", r"\$")
