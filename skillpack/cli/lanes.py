"""A history drawn with characters, one line of development beside the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Row(NamedTuple):
    """One row of the drawing.

    Attributes:
        drawn: the characters.
        commit: index of the commit that it is about; None for a row that only connects others.
    """

    drawn: str
    commit: int | None


def draw(commits: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Row]:
    r"""Draw commits below one another, every commit above its parents.

    Args:
        commits: digest and digests of the parents of each, in an order in which parents come after their children.

    >>> for row in draw([("m", "ab"), ("b", "r"), ("a", "r"), ("r", "")]):
    ...     print(row.drawn)
    *
    |\
    | *
    * |
    |/
    *
    """
    lanes: list[str] = []
    for index, (digest, parents) in enumerate(commits):
        if digest not in lanes:
            lanes.append(digest)
        lane = lanes.index(digest)
        while digest in lanes[lane + 1 :]:
            twin = len(lanes) - 1 - lanes[::-1].index(digest)
            yield Row(_join(len(lanes), lane, twin), None)
            del lanes[twin]
        yield Row(" ".join("*" if own == lane else "|" for own in range(len(lanes))), index)
        if not parents:
            if lane < len(lanes) - 1:
                yield Row(_close(len(lanes), lane), None)
            del lanes[lane]
            continue
        lanes[lane] = parents[0]
        for parent in parents[1:]:
            if parent in lanes:
                yield Row(_link(len(lanes), lane, lanes.index(parent)), None)
            else:
                yield Row(_open(len(lanes), lane), None)
                lanes.insert(lane + 1, parent)


def _open(count: int, lane: int) -> str:
    """A lane opens right of one of ``count``; those further right move on."""
    return _place(count, {2 * own: "|" for own in range(lane + 1)} | {2 * own + 1: "\\" for own in range(lane, count)})


def _join(count: int, left: int, right: int) -> str:
    """A lane ends in one left of it; those further right move up."""
    marks = {2 * own: "|" for own in range(right)} | {2 * own - 1: "/" for own in range(right, count)}
    return _place(count, dict.fromkeys(range(2 * left + 1, 2 * right - 1), "_") | marks)


def _close(count: int, lane: int) -> str:
    """A lane ends; those right of it move up."""
    return _place(count, {2 * own: "|" for own in range(lane)} | {2 * own - 1: "/" for own in range(lane + 1, count)})


def _link(count: int, lane: int, other: int) -> str:
    """A line goes from a commit to a lane that is there."""
    marks = {2 * own: "|" for own in range(count)}
    between = dict.fromkeys(range(2 * min(lane, other) + 1, 2 * max(lane, other)), "_")
    bend = {2 * other - 1: "\\"} if other > lane else {2 * lane - 1: "/"}
    return _place(count, between | marks | bend)


def _place(count: int, marks: Mapping[int, str]) -> str:
    return "".join(marks.get(place, " ") for place in range(2 * count)).rstrip()
