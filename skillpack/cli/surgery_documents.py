"""The JSON that `surgery` prints, and what its keys mean; see `documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.composing.surgery.learning import SurgeryReport

SURGERY_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "surgery": {
        "name": "name of the skill",
        "digest": "its identity, which is the same as before",
        "task": "what the module is opened by: the expert's name",
        "expert": "digest of the expert",
        "predicts": "next token or class",
        "rank": "of the module",
        "width": "numbers of a representation",
        "texts": "how many were learned from",
        "held_out": "how many were measured on; below eight texts, the same ones",
        "positions": "representations that were learned from",
        "before": "mean distance of a number of a representation from the expert's, on the held-out texts",
        "after": "the same with the module",
        "nbytes": "bytes of the module",
        "attachment": "digest of the attachment that holds it",
    },
}


def surgery_document(report: SurgeryReport) -> dict[str, Any]:
    """What `surgery` prints."""
    return asdict(report)
