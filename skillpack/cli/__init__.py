"""The command line: the only place that prints, asks, or exits.

Each command is a thin function over the function of the same name in `skillpack` (`import_skill` for ``import``).
Modules here import only the standard library and click at the top, so that ``skillpack --help`` answers at once.
"""

from __future__ import annotations

from skillpack.cli.root import main

__all__ = ["main"]
