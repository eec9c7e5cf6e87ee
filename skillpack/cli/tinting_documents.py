"""The JSON that `tint` prints, and what its keys mean; see `documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.composing.tinting.learning import TintReport

TINTING_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "tint": {
        "name": "name of the composed skill",
        "version": "its number in the history of the branch",
        "digest": "its identity",
        "size": "bytes on disk of all that the digest covers",
        "layer": "the tensor of the base that each task has its own of",
        "tints[].task": "a skill that it was composed of",
        "tints[].name": "name of the skill of its layer; empty if that is not kept",
        "tints[].version": "its number in the history; null if it is not kept",
        "tints[].digest": "its identity; empty if it is not kept",
        "tints[].size": "bytes on disk of all that this digest covers",
        "tints[].before": "cross-entropy of what the task's skill finds likeliest under the composed skill, nats per "
        "prediction, on held-out texts",
        "tints[].after": "the same with the layer",
        "texts": "how many were learned from",
        "held_out": "how many were measured on; of tasks with fewer than eight texts, the same ones",
    },
}


def tint_document(report: TintReport) -> dict[str, Any]:
    """What `tint` prints."""
    shared = report.shared
    return {
        "name": shared.name,
        "version": shared.version,
        "digest": shared.digest,
        "size": shared.size,
        "layer": report.layer,
        "tints": [asdict(tint) for tint in report.tints],
        "texts": report.texts,
        "held_out": report.held_out,
    }
