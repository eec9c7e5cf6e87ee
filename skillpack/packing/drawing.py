"""Pictures of curves, the same bytes for the same curve."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.packing.sweeping import SweepPoint

_INSTALL: Final = 'python -m pip install "skillpack[plot]"'
METADATA: Final = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
"""What a file would say of when and with what it was drawn."""
_WIDTH, _HEIGHT = 7.0, 4.0
"""Inches; the height is that of one panel."""
_LEAST: Final = 1e-9
"""Zero has no place on a logarithmic axis."""


def check_drawing() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UsageError("matplotlib, which draws the curve, is not installed", hint=_INSTALL)


def drawn(points: Sequence[SweepPoint], kind: str) -> bytes:
    """Size against quality, both axes logarithmic.

    Args:
        points: smallest first.
        kind: "png" or "svg".
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    content = io.BytesIO()
    # Names inside an SVG are random without a salt.
    with mpl.rc_context({"svg.hashsalt": "skillpack"}):
        measured = any(point.kl is not None for point in points)
        figure = Figure(figsize=(_WIDTH, _HEIGHT * (1 + measured)), layout="constrained")
        panels = figure.subplots(1 + measured, sharex=True, squeeze=False)[:, 0]
        _draw_error(panels[0], points)
        if measured:
            _draw_divergence(panels[1], points)
        for panel in panels:
            panel.grid(which="both", color="0.9")
            panel.set_axisbelow(True)
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 1)))
        panels[-1].set_xlabel("size of the skill on disk, bytes")
        panels[-1].xaxis.set_major_formatter("{x:,.0f}")
        figure.savefig(content, format=kind, dpi=150, metadata=METADATA[kind])
    return content.getvalue()


def _draw_error(panel: Any, points: Sequence[SweepPoint]) -> None:
    panel.loglog([point.size for point in points], [max(_LEAST, point.error) for point in points], "o-", label="packs")
    bounded = sorted((point for point in points if point.bound), key=lambda point: -point.error)
    if bounded:
        panel.loglog(
            [point.bound for point in bounded],
            [point.error for point in bounded],
            "x--",
            color="0.4",
            label="least that any code needs for Gaussian deltas like these",
        )
    _put_legend(panel)
    panel.set_ylabel("what is left out, relative to the change\n(Frobenius norms)")


def _draw_divergence(panel: Any, points: Sequence[SweepPoint]) -> None:
    found = [
        (point.size, *(max(_LEAST, kl) for kl in (point.kl, *point.kl_interval)))
        for point in points
        if point.kl is not None and point.kl_interval is not None
    ]
    sizes, kls, lows, highs = zip(*found, strict=True)
    panel.loglog(sizes, kls, "o-", color="C1", label="mean")
    panel.fill_between(sizes, lows, highs, color="C1", alpha=0.25, linewidth=0, label="95 % interval")
    _put_legend(panel)
    panel.set_ylabel("divergence from the fine-tune\n(KL, nats per prediction)")


def _put_legend(panel: Any) -> None:
    """Above the panel, where no point can be."""
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
