"""Methods of composition that learn from texts; see docs/compose-learned.md."""

from __future__ import annotations

from skillpack.composing.learned.adamerging import AdaMerging
from skillpack.composing.learned.atlas import Atlas
from skillpack.composing.learned.composing import learned_compose
from skillpack.composing.learned.concrete import Concrete
from skillpack.composing.learned.learning import METHODS, Course, Learned, learn_weights, learned_method
from skillpack.composing.learned.localising import Localise
from skillpack.composing.learned.self_positioning import SelfPositioning

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
