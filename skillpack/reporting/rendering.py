"""The page itself: templates filled in, with everything of foreign origin escaped."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from functools import cache
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from skillpack.reporting.charts import charts, marker, short_size
from skillpack.summaries import tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.comparing import ClusterReport
    from skillpack.reporting.gathering import LibraryView
    from skillpack.reporting.inputs import Curve, Evaluated, Learned, Matrix

LEVELS: Final = 9
"""Steps of a colour scale."""
_NOTHING: Final = "\N{EN DASH}"
_DIVERGING: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Cosines at which the steps begin: unrelated skills differ by little, so the steps are finer near zero."""


def rendered(
    library: LibraryView,
    title: str,
    learned: Sequence[Learned],
    curves: Sequence[Curve],
    evaluated: Sequence[Evaluated],
) -> str:
    """The page, HTML.

    Args:
        library: what is in the store.
        title: of the page.
        learned: sequences of tasks.
        curves: size against quality.
        evaluated: skills that were measured.
    """
    style, script = _style(), _asset("script.js")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            library=library,
            clusters=library.clusters,
            title=title,
            learned=learned,
            curves=curves,
            charts=charts(curves) if curves else [],
            evals=_by_skill(library, evaluated),
            style=Markup(style),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            hashes={"style": _hash(style), "script": _hash(script)},
            version=tools()["skillpack"],
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("skillpack.reporting", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "size": _size,
        "share": _share,
        "score": _score,
        "signed": lambda value: _score(value, "+") if value else _score(value),
        "short": lambda digest: digest.removeprefix("sha256:")[:12],
        "day": lambda time: time[:10],
        "moment": lambda time: time[:16].replace("T", " "),
        "line": lambda text: text.partition("\n")[0],
        "level": _level,
        "diverging": _diverging,
        "figure": lambda value, form: _NOTHING if value is None else format(value, form),
    }
    environment.globals |= {"forgotten": _forgotten, "span": _span, "marker": marker, "in_groups": _in_groups}
    return environment


def _style() -> str:
    """The style sheet, with the colours where it wants them."""
    colours = {theme: _asset(f"{theme}.css").strip() for theme in ("light", "dark")}
    return Template(_asset("style.css")).substitute(colours)


def _asset(name: str) -> str:
    return files("skillpack.reporting").joinpath("page", name).read_text("utf-8")


def _hash(content: str) -> str:
    """As a content security policy names an element's text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _plain(value: Any) -> Any:
    r"""Text with everything escaped that could do more than be seen: control and direction characters, lone surrogates.

    >>> _plain("math\x1b[2J\u202e")
    'math\\x1b[2J\\u202e'
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in value)


def _size(nbytes: float) -> str:
    """Bytes with three digits, so that columns line up.

    >>> _size(2e6), _size(41_480), _size(123_456_789), _size(500)
    ('2.00 MB', '41.5 kB', '123 MB', '500 B')
    """
    number, _, unit = short_size(nbytes).partition(" ")
    return f"{float(number):#.3g}".rstrip(".") + f" {unit}" if unit != "B" else f"{number} B"


def _score(value: float | None, sign: str = "") -> str:
    """A score with as many digits as any other of its size.

    >>> _score(0.5), _score(-0.0123, "+"), _score(12.345), _score(None)
    ('0.500', '-0.012', '12.3', '\N{EN DASH}')
    """
    if value is None:
        return _NOTHING
    return format(value, f"{sign}.3f" if abs(value) < 10 else f"{sign}.1f")


def _share(share: float | None) -> str:
    """A share in per cent without its sign, as short as a cell needs it.

    >>> [_share(share) for share in (None, 0.0, 0.0004, 0.0123, 0.123)]
    ['', '0', '<.1', '1.2', '12']
    """
    if share is None:
        return ""
    percent = 100 * share
    if percent == 0:
        return "0"
    if percent < 0.1:
        return "<.1"
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _level(share: float | None, largest: float) -> int:
    """The step of a sequential scale from 0 to LEVELS for a share of the largest one."""
    if share is None or largest <= 0:
        return 0
    return min(LEVELS, max(0, round(LEVELS * share / largest)))


def _diverging(cosine: float | None) -> str:
    """The class of a cosine's cell.

    >>> _diverging(0.0), _diverging(0.3), _diverging(-0.3), _diverging(1.0)
    ('z', 'h4', 'n4', 'h9')
    """
    if cosine is None:
        return "none"
    level = sum(abs(cosine) >= limit for limit in _DIVERGING)
    return f"{'h' if cosine > 0 else 'n'}{level}" if level else "z"


def _span(matrix: Matrix) -> tuple[float, float]:
    """Least and largest score."""
    scores = [score for row in matrix.scores for score in row if score is not None]
    return (min(scores), max(scores)) if scores else (0.0, 0.0)


def _forgotten(matrix: Matrix) -> list[float | None]:
    """What each task gained since it was learned; below zero it was forgotten."""
    last = matrix.scores[-1] if matrix.scores else ()
    found = []
    for task, score in enumerate(last):
        own = matrix.scores[task][task] if task < len(matrix.scores) else None
        found.append(None if score is None or own is None else score - own)
    return found


def _in_groups(clusters: ClusterReport) -> list[int]:
    """Indices of skills base by base in the order of the groups, so that what belongs together stands together."""
    counts = Counter(group.base for group in clusters.groups for _ in group.names)
    groups = sorted(clusters.groups, key=lambda group: (-counts[group.base], group.base))
    order = [*(name for group in groups for name in group.names), *clusters.left_out]
    return [clusters.names.index(name) for name in order]


def _by_skill(library: LibraryView, evaluated: Sequence[Evaluated]) -> dict[str, list[Evaluated]]:
    """Evaluations by the skill that they are of; those of older versions count with their name."""
    names = {skill.summary.name for skill in library.skills}
    found: dict[str, list[Evaluated]] = {}
    for one in evaluated:
        name = one.skill.partition("=")[0].partition("@")[0]
        if name in names:
            found.setdefault(name, []).append(one)
    return found
