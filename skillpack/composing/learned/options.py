"""Options of a method, from what users write to the dataclass that holds them."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = TypeVar("Kind")


def with_options(kind: type[Kind], options: Mapping[str, Any]) -> Kind:
    """Make a method with options, given as values or as text.

    Args:
        kind: a dataclass with a `name`, whose fields have defaults.
        options: name -> value.

    Raises:
        UsageError: the method has no such option, or the value is none for it.

    Example:
        >>> from skillpack.composing.learned.adamerging import AdaMerging
        >>> with_options(AdaMerging, {"layerwise": "false", "rate": "0.01"})
        AdaMerging(layerwise=False, start=0.3, rate=0.01)
    """
    known = {field.name: str(field.type) for field in fields(kind) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(options.keys() - known.keys()):
        raise UsageError(
            f"{kind.name} has no option {listing(unknown)}",  # type: ignore[attr-defined]
            hint=f"It has {listing(known, 20)}." if known else "It has none.",
        )
    return kind(**{name: _value(name, value, known[name]) for name, value in options.items()})


def _value(name: str, value: Any, annotation: str) -> Any:
    """A value as its field wants it; annotations are text, as this package postpones them."""
    readers: dict[str, Callable[[str], Any]] = {"bool": _truth, "int": int, "float": float}
    if annotation.endswith("| None") and (value is None or str(value).lower() in {"none", "auto"}):
        return None
    reader = readers[annotation.partition(" |")[0]]
    try:
        return reader(str(value))
    except ValueError as error:
        raise UsageError(
            f"{name}={value} is no value for an option of type {annotation}", hint=f"Write {name}=VALUE."
        ) from error


def _truth(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]
