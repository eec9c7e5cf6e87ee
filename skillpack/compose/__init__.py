"""Several skills of one base become one skill."""

from __future__ import annotations

__all__: list[str] = []
