"""The JSON that `compare` and `report` print, and what its keys mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.comparing import ClusterReport, CompareReport, Pair, Place
    from skillpack.reporting import LibraryPage

_FIGURES: Final = {
    "cosine": "of the two deltas; null if one is zero",
    "conflict": "share of weights that both change which the two pull in opposite directions; 0.5 is chance",
    "weighted_conflict": "the same, every weight counted by the smaller of its two changes",
    "left_overlap": "how much of the one's strongest output directions are the other's, 0 to 1; null without matrices",
    "right_overlap": "the same of the input directions",
    "chance_overlap": "what random directions would give",
}
_PLACE: Final = {
    **_FIGURES,
    "energy_first": "squared norm of the first skill's delta there",
    "energy_second": "squared norm of the second's",
}


def _within(prefix: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{key}": meaning for key, meaning in keys.items()}


COMPARING_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "compare": {
        "names[]": "what the skills are called here",
        "digests[]": "their identities",
        "rank": "how many directions of each matrix were compared; null with --cluster",
        "pairs[].first": "a skill; there are no pairs with --cluster",
        "pairs[].second": "another",
        **_within("pairs[]", _FIGURES),
        "pairs[].shared_energy": "how much of their energy is in the same tensors, 0 to 1",
        "pairs[].norm_ratio": "norm of the larger delta over that of the smaller; null if one is zero",
        "pairs[].verdict": "apart, related, alike, opposed, drowned or nothing in common",
        "pairs[].verdict_text": "the same in plain words",
        "pairs[].layers[].name": "a block of layers",
        **_within("pairs[].layers[]", _PLACE),
        "pairs[].tensors[].name": "a tensor of the base; those that neither changes are left out",
        **_within("pairs[].tensors[]", _PLACE),
        "matrix[][]": "cosine of all skills with all; null for different bases, and where nothing is known",
        "groups[].names[]": "with --cluster: skills that belong together",
        "groups[].base": "fingerprint of their base",
        "groups[].cosine": "mean cosine of every two of them; null for a lone one",
        "duplicates[].first": "with --cluster: a skill that is nearly another",
        "duplicates[].second": "the other",
        "duplicates[].cosine": "of the two",
        "left_out[].name": "a tensor that could not be compared; with --cluster, a skill that could not be placed",
        "left_out[].reason": "why",
    },
    "report": {
        "path": "the page that was written",
        "size": "its bytes",
        "skills": "how many skills it shows",
        "commit": "the state of the library that it shows; null if the branch has no skill yet",
    },
}
"""Command -> path of a key -> its meaning, as in `skillpack.cli.documents.KEYS`."""


def compare_document(found: CompareReport) -> dict[str, Any]:
    """What `compare` prints."""
    return {
        "names": list(found.names),
        "digests": list(found.digests),
        "rank": found.rank,
        "pairs": [_pair(pair) for pair in found.pairs],
        "matrix": [list(row) for row in found.cosine],
        "groups": [],
        "duplicates": [],
        "left_out": _left_out(found.left_out),
    }


def cluster_document(found: ClusterReport) -> dict[str, Any]:
    """What `compare --cluster` prints."""
    return {
        "names": list(found.names),
        "digests": list(found.digests),
        "rank": None,
        "pairs": [],
        "matrix": [list(row) for row in found.cosine],
        "groups": [{**asdict(group), "names": list(group.names)} for group in found.groups],
        "duplicates": [asdict(pair) for pair in found.duplicates],
        "left_out": _left_out(found.left_out),
    }


def report_document(page: LibraryPage) -> dict[str, Any]:
    """What `report` prints."""
    return {"path": str(page.path), "size": page.size, "skills": page.skills, "commit": page.commit}


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        **asdict(pair.total),
        "shared_energy": pair.shared_energy,
        "norm_ratio": pair.norm_ratio,
        "verdict": pair.verdict.kind,
        "verdict_text": pair.verdict.text,
        "layers": [_place(place) for place in pair.layers],
        "tensors": [_place(place) for place in pair.tensors],
    }


def _place(place: Place) -> dict[str, Any]:
    energies = dict(zip(("energy_first", "energy_second"), place.energies, strict=True))
    return {"name": place.name, **asdict(place.figures), **energies}


def _left_out(left_out: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "reason": reason} for name, reason in left_out.items()]
