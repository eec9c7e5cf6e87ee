"""The JSON that `serve` prints, and what its keys mean; see `skillpack.cli.documents`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.serving.server import Serving

SERVING_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "serve": {
        "url": "where the server answers; the API is below /v1",
        "base": "name of the base for clients",
        "skills[].name": "name of a skill that was loaded",
        "skills[].label": "its version as it was addressed, such as math@3",
        "skills[].digest": "its identity",
        "device": "where the model runs",
        "context": "most tokens of a prompt with its answer",
    }
}


def serve_document(serving: Serving) -> dict[str, Any]:
    """What `serve` prints once the server answers."""
    return {
        "url": serving.url,
        "base": serving.base,
        "skills": [{"name": skill.name, "label": skill.label, "digest": skill.digest} for skill in serving.skills],
        "device": serving.device,
        "context": serving.context,
    }
