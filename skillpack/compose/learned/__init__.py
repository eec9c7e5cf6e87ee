"""Methods of composition that learn from texts; see docs/compose-learned.md."""

from __future__ import annotations

from skillpack.compose.learned.adamerging import AdaMerging
from skillpack.compose.learned.atlas import Atlas
from skillpack.compose.learned.composing import learned_compose
from skillpack.compose.learned.concrete import Concrete
from skillpack.compose.learned.learning import METHODS, Course, Learned, learn_weights, learned_method
from skillpack.compose.learned.localising import Localise
from skillpack.compose.learned.self_positioning import SelfPositioning

__all__ = [
    "METHODS",
    "AdaMerging",
    "Atlas",
    "Concrete",
    "Course",
    "Learned",
    "Localise",
    "SelfPositioning",
    "learn_weights",
    "learned_compose",
    "learned_method",
]
