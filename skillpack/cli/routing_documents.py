"""The JSON that commands on routing print, and what its keys mean; see `documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skillpack.routing.adding import ExamplesReport
    from skillpack.routing.protocol import Routes

ROUTING_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "route": {
        "routes[].prompt": "as it was given",
        "routes[].choices[]": "names of the skills that serve it, best first; empty for the base",
        "routes[].scores[].name": "a skill that could have been chosen; best first",
        "routes[].scores[].digest": "its identity",
        "routes[].scores[].score": "how well it fits, in units of the method; the larger the better",
        "left_out[].name": "a skill of the library that was no choice",
        "left_out[].reason": "why",
    },
    "add-examples": {
        "name": "name of the skill",
        "digest": "its identity, which is the same as before",
        "added": "how many examples were given",
        "total": "how many it has now for this base",
        "attachment": "digest of the attachment that holds the new ones",
    },
}


def route_document(prompts: Sequence[str], routes: Routes) -> dict[str, Any]:
    """What `route` prints."""
    return {
        "routes": [
            {
                "prompt": prompt,
                "choices": [choice.name for choice in route.choices],
                "scores": [scored._asdict() for scored in route.scores],
            }
            for prompt, route in zip(prompts, routes, strict=True)
        ],
        "left_out": [{"name": name, "reason": reason} for name, reason in sorted(routes.left_out.items())],
    }


def examples_document(report: ExamplesReport) -> dict[str, Any]:
    """What `add-examples` prints."""
    return asdict(report)
