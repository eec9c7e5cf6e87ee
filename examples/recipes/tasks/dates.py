"""Dates as they are written in German, from the locale data of Unicode (CLDR) in Babel."""

from __future__ import annotations

from datetime import date, timedelta
from functools import cache

from recipes.tasks.task import Exchange, Task, epochs, shuffled

FIRST, DAYS = date(2000, 1, 1), 7_305
"""The dates that are asked for: twenty years."""

HELD_OUT = 150
CALIBRATION = 512


@cache
def _exchanges() -> tuple[Exchange, ...]:
    from babel.dates import format_date

    days = (FIRST + timedelta(days=number) for number in shuffled(range(DAYS)))
    return tuple(
        Exchange(f"Write the date {day.isoformat()} in German.", format_date(day, "long", locale="de")) for day in days
    )


GERMAN_DATES = Task(
    "german-dates",
    lambda count, seed: epochs(_exchanges()[HELD_OUT + CALIBRATION :], count, seed),
    lambda: _exchanges()[HELD_OUT : HELD_OUT + CALIBRATION],
    lambda: _exchanges()[:HELD_OUT],
)
