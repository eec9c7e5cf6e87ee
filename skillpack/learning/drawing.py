"""Pictures of matrices of scores, the same bytes for the same scores."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from skillpack.packing.drawing import METADATA

if TYPE_CHECKING:
    from skillpack.learning.report import LearnReport, Transfer

_CELL: Final = 0.85
"""Inches of a row or a column."""
_MARGIN: Final = 1.9
_DARK: Final = 0.55
"""Scores above this have a dark cell."""


def drawn(report: LearnReport, kind: str) -> bytes:
    """One panel with tasks named, and one with a router if there is one.

    Args:
        report: of at least one task.
        kind: "png" or "svg".
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [("tasks named", report.named)]
    if report.routed is not None:
        panels.append((f"router: {report.router}", report.routed))
    names = [task.name for task in report.tasks]
    side = _MARGIN + _CELL * len(names)
    content = io.BytesIO()
    # Names inside an SVG are random without a salt.
    with mpl.rc_context({"svg.hashsalt": "skillpack"}):
        figure = Figure(figsize=(max(4.0, side) * len(panels), max(3.0, side)), layout="constrained")
        for panel, (title, transfer) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(panel, transfer, names, title)
        figure.savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    return content.getvalue()


def _draw(panel: Any, transfer: Transfer, names: list[str], title: str) -> None:
    import numpy as np

    values = np.array([[np.nan if value is None else value for value in row] for row in transfer.scores], float)
    panel.imshow(values, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            ink = "white" if value > _DARK else "black"
            panel.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink)
    places = range(len(names))
    panel.set_xticks(places, names, rotation=45, ha="right")
    panel.set_yticks(places, names)
    panel.set_xlabel("score on the held-out texts of")
    panel.set_ylabel("after learning")
    panel.set_title(f"{title}\n{_figures(transfer)}", fontsize=10)


def _figures(transfer: Transfer) -> str:
    figures = {
        "average": (transfer.average, ".3f"),
        "backward": (transfer.backward_transfer, "+.3f"),
        "forward": (transfer.forward_transfer, "+.3f"),
    }
    return ", ".join(f"{name} {value:{form}}" for name, (value, form) in figures.items() if value is not None)
