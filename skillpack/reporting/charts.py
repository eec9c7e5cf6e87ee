"""Curves as inline SVG: both axes logarithmic, colours by class, so that a page's theme decides about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from skillpack.reporting.inputs import Curve, Point

WIDTH, HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 42
_LEAST: Final = 1e-9
"""Zero has no place on a logarithmic axis."""
STYLES: Final = 6
"""Kinds of lines that can be told apart by colour, dashes and markers."""


@dataclass(frozen=True)
class Chart:
    """A chart of one quantity against size.

    Attributes:
        title: of the chart.
        svg: the drawing.
        legend: kind of line and what it is.
    """

    title: str
    svg: Markup
    legend: tuple[tuple[int, str], ...]


def charts(curves: Sequence[Curve]) -> list[Chart]:
    """Size against error, and against divergence where that was measured."""
    found = [_chart("What is left out, relative to the change", curves, lambda point: point.error)]
    measured = [curve for curve in curves if any(point.kl is not None for point in curve.points)]
    if measured:
        found.append(_chart("Divergence from the fine-tune, nats a prediction", measured, lambda point: point.kl))
    return found


def _chart(title: str, curves: Sequence[Curve], figure: Callable[[Point], float | None]) -> Chart:
    lines = [
        [(point.size, max(_LEAST, value)) for point in curve.points if (value := figure(point)) is not None]
        for curve in curves
    ]
    across = _Axis.over([x for line in lines for x, _ in line], _LEFT, WIDTH - _RIGHT)
    up = _Axis.over([y for line in lines for _, y in line], HEIGHT - _BOTTOM, _TOP)
    body = [*_grid(across, up)]
    for number, line in enumerate(lines):
        body += _line(number % STYLES, [(across.at(x), up.at(y)) for x, y in line])
    named = Markup('<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{t}">{b}</svg>').format(
        w=WIDTH, h=HEIGHT, t=f"{title}, against size. The table below has the figures.", b=Markup("").join(body)
    )
    return Chart(title, named, tuple((number % STYLES, curve.title) for number, curve in enumerate(curves)))


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float) -> _Axis:
        exponents = [math.log10(value) for value in values]
        low, high = min(exponents), max(exponents)
        room = max(0.05, 0.06 * (high - low))
        return cls(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """1, 2 and 5 of every decade, or only ones where there are many."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        factors = (1,) if self.high - self.low > 2.5 else (1, 2, 5)
        for decade in decades:
            for factor in factors:
                value = factor * 10.0**decade
                if self.low <= math.log10(value) <= self.high:
                    yield value


def _grid(across: _Axis, up: _Axis) -> Iterator[Markup]:
    bottom = HEIGHT - _BOTTOM
    for value in across.ticks():
        x = round(across.at(value), 1)
        yield Markup('<path class="grid" d="M{x} {t}V{b}"/>').format(x=x, t=_TOP, b=bottom)
        yield _text(x, bottom + 17, short_size(value), "middle")
    for value in up.ticks():
        y = round(up.at(value), 1)
        yield Markup('<path class="grid" d="M{a} {y}H{b}"/>').format(y=y, a=_LEFT, b=WIDTH - _RIGHT)
        yield _text(_LEFT - 7, y + 4, f"{value:g}", "end")
    yield _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 6, "size of the skill", "middle")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{x}" y="{y}" text-anchor="{a}">{t}</text>').format(x=x, y=y, a=anchor, t=text)


def _line(style: int, points: Sequence[tuple[float, float]]) -> Iterator[Markup]:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    yield Markup('<path class="line k{s}" d="M{p}"/>').format(s=style, p=path)
    for x, y in points:
        yield marker(style, x, y)


def marker(style: int, x: float, y: float) -> Markup:
    """A dot of a form of its own for each kind of line."""
    size = 4.0
    corners = {1: 4, 2: 3, 3: 4, 4: 5, 5: 3}.get(style)
    if corners is None:
        return Markup('<circle class="dot k{s}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>').format(s=style, x=x, y=y, r=size)
    turn = {1: math.pi / 4, 3: 0.0, 5: math.pi}.get(style, 0.0)
    angles = [turn + 2 * math.pi * corner / corners for corner in range(corners)]
    path = "L".join(f"{x + 1.25 * size * math.sin(a):.1f} {y - 1.25 * size * math.cos(a):.1f}" for a in angles)
    return Markup('<path class="dot k{s}" d="M{p}Z"/>').format(s=style, p=escape(path))


def short_size(nbytes: float) -> str:
    """Bytes as an axis has them.

    >>> short_size(2e6), short_size(500), short_size(1.5e9)
    ('2 MB', '500 B', '1.5 GB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= 0.999 * factor:
            return f"{nbytes / factor:.3g} {unit}"
    return f"{nbytes:.3g} B"
