"""The JSON that `rebase` prints, and what its keys mean."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skillpack.rebasing import ByBase, Flips, RebaseReport

_FIGURES: Final = {
    "moved": "norm of the new base's movement, divided by that of what the skill adds; null if it adds nothing, or "
    "without the old base; so are cosine, opposed and risk",
    "cosine": "of the two; null too if the base has not moved",
    "opposed": "share of what the skill adds, by magnitude, in numbers that the new base moved the other way",
    "risk": "share of what the skill adds that the new base took back, from 0 to 1",
}
_BY_BASE: Final = {
    "old_base": "of the old base alone; null if it cannot be measured",
    "old": "of the old base with the skill; null where data or task do not allow it",
    "new_base": "of the new base alone; null if it cannot be measured",
    "new": "of the new base with the skill; likewise",
}


def _within(prefix: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{key}": meaning for key, meaning in keys.items()}


REBASE_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "rebase": {
        "name": "name of the moved skill",
        "version": "its number in the history of the branch; null after a dry run",
        "digest": "its identity; empty after a dry run",
        "size": "bytes on disk of all that the digest covers",
        "source": "the version that was moved, such as math@1",
        "source_digest": "its identity",
        "old_fingerprint": "of the base that it came from",
        "new_fingerprint": "of the base that it goes on now",
        "same": "it is the same skill as before",
        "changed": "how many of its tensors have another base now",
        "recoded": "how many of these were coded anew",
        "files[]": "relative paths of the files that it changes",
        **_within("total", _FIGURES),
        "layers[].layer": "a block of the model, the riskiest first",
        "layers[].tensors": "how many of its tensors the skill changes",
        "layers[].changed": "how many of these the new base changed",
        **_within("layers[]", _FIGURES),
        "tensors[].tensor": "name of a tensor that the skill changes, the riskiest first",
        "tensors[].changed": "the new base has another one than the old",
        "tensors[].recoded": "it was coded anew",
        "tensors[].reason": "why there are no figures; empty if there are",
        **_within("tensors[]", _FIGURES),
        "flips.task": "next token or class: what the model predicts; flips as a whole is null without --data",
        "flips.samples": "texts and chats that were measured",
        "flips.tokens": "predictions that were measured",
        "flips.kl": "mean KL(old base with skill || new base with skill), nats for each prediction",
        "flips.kl_interval[]": "ends of its 95 % interval; all intervals are bootstrap intervals over samples",
        "flips.agreement": "share of predictions whose most likely outcome is the same",
        **_within("flips.nll", {key: f"negative log-likelihood in nats {text}" for key, text in _BY_BASE.items()}),
        "flips.kept": "gain of the skill on the new base, as a share of that on the old one; null if unknown",
        "flips.kept_interval[]": "ends of its interval; empty if the gain is not certain",
        **_within("flips.right", {key: f"share of right samples {text}" for key, text in _BY_BASE.items()}),
        "flips.negative": "share of samples that were right and are wrong; null where nothing can be right",
        "flips.negative_interval[]": "ends of its interval; empty where nothing can be right",
        "flips.positive": "share of samples that were wrong and are right; likewise",
        "flips.positive_interval[]": "ends of its interval; likewise",
        "flips.remarks[]": "what could not be measured, and why",
        "remarks[]": "what else to know",
        "dry_run": "nothing was stored",
    },
}
"""As `skillpack.cli.documents.KEYS`."""


def rebase_document(report: RebaseReport, *, dry_run: bool) -> dict[str, Any]:
    """What `rebase` prints."""
    conflicts = asdict(report.conflicts)
    return {
        "name": report.name,
        "version": report.version,
        "digest": report.digest,
        "size": report.size,
        "source": report.source,
        "source_digest": report.source_digest,
        "old_fingerprint": report.old_fingerprint,
        "new_fingerprint": report.new_fingerprint,
        "same": report.same,
        "changed": report.moved,
        "recoded": report.recoded,
        "files": list(report.files),
        "total": {key: conflicts[key] for key in _FIGURES},
        "layers": list(conflicts["layers"]),
        "tensors": list(conflicts["tensors"]),
        "flips": None if report.flips is None else _flips(report.flips),
        "remarks": list(report.remarks),
        "dry_run": dry_run,
    }


def _flips(flips: Flips) -> dict[str, Any]:
    return {
        **asdict(flips),
        "nll": _by_base(flips.nll),
        "right": _by_base(flips.right),
        **{
            f"{key}_interval": list(getattr(flips, f"{key}_interval") or ()) for key in ("kept", "negative", "positive")
        },
        "remarks": list(flips.remarks),
    }


def _by_base(figures: ByBase | None) -> dict[str, float | None]:
    return dict.fromkeys(_BY_BASE) if figures is None else figures._asdict()
