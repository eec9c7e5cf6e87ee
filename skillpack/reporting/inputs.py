"""The files that other commands wrote and the report draws: learn.json, curve.json and what `eval --json` prints.

They may come from anywhere, so everything that is used of them is checked to be what it should be.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LIMIT: Final = 16 << 20
"""Bytes of a file; what the commands write is a few thousand."""
_TASKS: Final = 200
_POINTS: Final = 500


@dataclass(frozen=True)
class Matrix:
    """Scores after each task.

    Attributes:
        scores: row i, column j: of task j after task i was learned; None where it was not measured.
        average: over the last row.
        backward: what earlier tasks gained, or below zero lost, by the learning of later ones.
        forward: what tasks gained by the learning of earlier ones.
    """

    scores: tuple[tuple[float | None, ...], ...]
    average: float | None
    backward: float | None
    forward: float | None


@dataclass(frozen=True)
class Learned:
    """A sequence of tasks that was learned.

    Attributes:
        title: what the file is called.
        tasks: in their order.
        named: where each task's own skill answers.
        routed: where a router chooses; None without one.
        nbytes: of each task's skill; empty if not known.
        base: score of the base on each task; empty if not known.
    """

    title: str
    tasks: tuple[str, ...]
    named: Matrix
    routed: Matrix | None
    nbytes: tuple[int, ...]
    base: tuple[float | None, ...]


@dataclass(frozen=True)
class Point:
    """A pack of a curve.

    Attributes:
        size: bytes.
        error: what coding left out, relative to the change.
        bound: least bytes of any code at this error; None if not known.
        kl: nats per prediction; None if not measured.
        low: lower end of its 95 % interval; None likewise.
        high: the upper end.
    """

    size: float
    error: float
    bound: float | None
    kl: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """Size against quality of a fine-tune.

    Attributes:
        title: what the file is called.
        tuned_size: bytes of the fine-tune's tensors.
        points: smallest first.
    """

    title: str
    tuned_size: float
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Evaluated:
    """A skill that was measured on texts.

    Attributes:
        skill: its address.
        kl: from the fine-tune, nats per prediction.
        agreement: share of predictions that are the fine-tune's.
        kept: share of the fine-tune's gain; None if not known.
        samples: how many texts.
    """

    skill: str
    kl: float
    agreement: float
    kept: float | None
    samples: int


def read_learned(path: str | Path) -> Learned:
    """Read what `skillpack learn` wrote.

    Raises:
        UsageError: it is no such file.
    """
    return _read(path, "skillpack learn", _learned)


def read_curve(path: str | Path) -> Curve:
    """Read the ``curve.json`` of a sweep.

    Raises:
        UsageError: it is no such file.
    """
    return _read(path, "skillpack pack --sweep", _curve)


def read_evaluated(path: str | Path) -> Evaluated:
    """Read what `skillpack eval --json` printed.

    Raises:
        UsageError: it is no such file.
    """
    return _read(path, "skillpack eval --json", _evaluated)


def _read(path: str | Path, command: str, parse: Callable[[str, Any], Any]) -> Any:
    file = Path(path)
    # A file of a folder of its own is called after the folder.
    title = file.parent.name if file.stem in {"curve", "learn", "eval"} and file.parent.name else file.stem
    try:
        return parse(title, json.loads(_content(file)))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{path} is not what `{command}` writes: {error!r}") from error


def _content(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise ValueError("it is too large")
    return content


def _learned(title: str, document: Any) -> Learned:
    tasks = tuple(map(_text, _list(document["tasks"], _TASKS)))
    if not tasks:
        raise ValueError("it has no task")
    routed = {key.removeprefix("routed_"): value for key, value in document.items() if key.startswith("routed_")}
    return Learned(
        title=title,
        tasks=tasks,
        named=_matrix(document, len(tasks)),
        routed=_matrix(routed, len(tasks)) if routed.get("scores") else None,
        nbytes=tuple(int(_number(size)) for size in _row(document.get("bytes") or [], len(tasks))),
        base=tuple(map(_optional, _row(document.get("base") or [], len(tasks)))),
    )


def _matrix(document: Any, tasks: int) -> Matrix:
    rows = tuple(tuple(map(_optional, _list(row, tasks))) for row in _list(document["scores"], tasks))
    return Matrix(
        tuple(row + (None,) * (tasks - len(row)) for row in rows),
        _optional(document.get("average")),
        _optional(document.get("backward_transfer")),
        _optional(document.get("forward_transfer")),
    )


def _curve(title: str, document: Any) -> Curve:
    points = tuple(map(_point, _list(document["points"], _POINTS)))
    if not points:
        raise ValueError("it has no point")
    return Curve(title, _number(document["tuned_size"]), tuple(sorted(points, key=lambda point: point.size)))


def _point(document: Any) -> Point:
    interval = document.get("kl_interval") or [None, None]
    size = _number(document["size"])
    if size <= 0:
        raise ValueError("a size is not positive")
    return Point(
        size,
        _number(document["error"]),
        _optional(document.get("bound")),
        _optional(document.get("kl")),
        _optional(interval[0]),
        _optional(interval[1]),
    )


def _evaluated(title: str, document: Any) -> Evaluated:
    del title
    return Evaluated(
        skill=_text(document["skill"]),
        kl=_number(document["kl"]),
        agreement=_number(document["agreement"]),
        kept=_optional(document.get("kept")),
        samples=int(_number(document["samples"])),
    )


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"a list of at most {most} is expected")
    return value


def _row(value: Any, size: int) -> Sequence[Any]:
    found = _list(value, size)
    if found and len(found) != size:
        raise ValueError(f"a list of {size} is expected")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _optional(value: Any) -> float | None:
    return None if value is None else _number(value)
