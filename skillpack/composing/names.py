"""Names that must be known before anything large is imported."""

from __future__ import annotations

from typing import Final

LEARNED: Final = ("adamerging", "atlas", "self-positioning", "concrete", "localise")
"""Methods of `skillpack.composing.learned`, which are made with texts."""

TINTING: Final = "tinting"
"""The method of `skillpack.composing.tinting`, which makes several skills."""
