"""Options of a method, from what users write to the dataclass that holds them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = TypeVar("Kind")


def with_options(kind: type[Kind], options: Mapping[str, Any]) -> Kind:
    """Make a method with options, given as values or as text.

    Args:
        kind: a dataclass with a `name`, whose fields have defaults; those with ``metadata={"recipe": False}`` are none
            of a user's business.
        options: name -> value.

    Raises:
        UsageError: the method has no such option, or the value is none for it.

    Example:
        >>> from skillpack.composing.learned.adamerging import AdaMerging
        >>> with_options(AdaMerging, {"layerwise": "false", "rate": "0.01"})
        AdaMerging(layerwise=False, start=0.3, rate=0.01)
    """
    known = {
        field.name: str(field.type)
        for field in fields(kind)  # type: ignore[arg-type]
        if field.init and field.metadata.get("recipe", True)
    }
    if unknown := sorted(options.keys() - known.keys()):
        raise UsageError(
            f"The method {kind.name} has no option {listing(unknown)}",  # type: ignore[attr-defined]
            hint=f"It has {listing(known, 20)}." if known else "It has none.",
        )
    return kind(**{name: _value(name, value, known[name]) for name, value in options.items()})


def _value(name: str, value: Any, annotation: str) -> Any:
    """A value as its field wants it; annotations are text, as methods postpone them."""
    if annotation.endswith("| None") and (value is None or str(value).lower() in {"none", "auto"}):
        return None
    try:
        return _READERS.get(annotation.partition(" |")[0], _as_json)(value)
    except ValueError as error:
        raise UsageError(
            f"{value!r} is no value for {name}", hint=f"It is of the type {annotation}: --option {name}=VALUE."
        ) from error


def _truth(value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in known:
        raise ValueError(value)
    return known[str(value).lower()]


def _as_json(value: Any) -> Any:
    """What other types than the usual ones are written as; names of choices need no quotes."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "bool": _truth,
    "int": lambda value: int(str(value)),
    "float": lambda value: float(str(value)),
    "str": str,
}
