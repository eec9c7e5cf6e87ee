"""Methods by name, and their options from what users write."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, cast

from skillpack.composing.methods.average import Average
from skillpack.composing.methods.breadcrumbs import Breadcrumbs
from skillpack.composing.methods.consensus import Consensus
from skillpack.composing.methods.dare import Dare
from skillpack.composing.methods.emr import Emr
from skillpack.composing.methods.layer_swapping import LayerSwapping
from skillpack.composing.methods.negation import Negation
from skillpack.composing.methods.pcb import Pcb
from skillpack.composing.methods.sum import Sum
from skillpack.composing.methods.tall import TallMasks
from skillpack.composing.methods.ties import Ties
from skillpack.composing.methods.twin import Twin
from skillpack.composing.names import LEARNED, TINTING
from skillpack.composing.options import with_options
from skillpack.errors import UsageError, listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.composing.protocol import Method

GROUP: Final = "skillpack.composers"
"""Entry points under which packages offer methods: classes that take their options by keyword."""
_ALL: Final = (
    Sum,
    Average,
    Negation,
    Ties,
    Dare,
    Breadcrumbs,
    Pcb,
    Consensus,
    TallMasks,
    Emr,
    LayerSwapping,
    Twin,
)
_OWN: Final[Mapping[str, type[Any]]] = {method.name: method for method in _ALL}


def method_names() -> list[str]:
    """All methods that are known here, our own first."""
    others = sorted({point.name for point in entry_points(group=GROUP)} - _OWN.keys())
    return [*_OWN, *others]


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method with options.

    Args:
        name: of the method.
        options: values, or texts as users write them, which are read as JSON where they can be.

    Raises:
        UsageError: there is no such method or option, or a value makes no sense.
    """
    return cast("Method", with_options(_class_of(name), options))


def _class_of(name: str) -> type[Any]:
    if name in _OWN:
        return _OWN[name]
    for point in entry_points(group=GROUP, name=name):
        return cast("type[Any]", point.load())
    if name in LEARNED:
        raise UsageError(
            f"The method {name} learns from texts, which a recipe names by their digest only",
            hint=f"Give the texts: skillpack compose SKILL... --method {name} --data DATA --base MODEL --name NAME",
        )
    if name == TINTING:
        raise UsageError(
            "Tinting learns from texts, which a recipe names by their digest only, and makes several skills",
            hint="Give the texts: skillpack tint SKILL... --name NAME --data DATA --data DATA --base MODEL",
        )
    raise UsageError(f"There is no method {name!r}", hint=f"Choose one of {listing(method_names(), 30)}.")
