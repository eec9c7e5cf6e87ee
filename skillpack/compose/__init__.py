"""Several skills of one base become one skill.

The package has the name of the function that it is about, `skillpack.compose`, and can be called like it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _Callable(ModuleType):
    """A module that is called as its function: importing a part of it must not take `skillpack.compose` away."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from skillpack.compose.skills import compose

        return compose(*arguments, **options)

    @property
    def __wrapped__(self) -> Any:
        from skillpack.compose.skills import compose

        return compose


sys.modules[__name__].__class__ = _Callable
