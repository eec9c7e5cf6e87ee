"""The methods of routing, one a file, by name; others come as entry points of the group ``skillpack.routers``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from skillpack.routing.methods.arrow import Arrow
from skillpack.routing.methods.likelihood import Likelihood
from skillpack.routing.methods.linear import Linear
from skillpack.routing.methods.prototype import Prototype
from skillpack.routing.methods.refined import SelfRefined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skillpack.routing.features import Base
    from skillpack.routing.protocol import Method

OWN: Final[Mapping[str, Callable[[Base], Method]]] = {
    "prototype": Prototype,
    "arrow": Arrow,
    "likelihood": Likelihood,
    "linear": Linear,
    "self-refined": SelfRefined,
}
